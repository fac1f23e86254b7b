"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from .blend import blend
from .checkpoint import Checkpoint
from .match import match_length
from .normalize import normalize, repair_outliers
from .options import PROMPT, Settings
from .reference import Reference
from .sequence import TEMPLATE, Encode, Sequence, build_sequence
from .statistics import ReferenceStatistics
from .store import Store


class Extractor(Protocol):
    """What a host provides: Qwen3-VL on the host's device, loaded when it is first asked for hidden states.

    Attributes:
        checkpoint: The weights' headers, known without loading them.
        precision: Device and dtype as text; results of another precision are not reused.
    """

    checkpoint: Checkpoint
    precision: str

    def hidden_states(self, sequence: Sequence, reference: Reference, tokens: int, layers: Iterable[int]) -> dict[int, torch.Tensor]: ...


@dataclass(frozen=True)
class Text:
    """What the host made of one prompt.

    Attributes:
        prompt: The prompt as the host's text encoder got it.
        ids: The host's n token ids, template included.
        embeddings: float [n, hidden].
    """

    prompt: str
    ids: tuple[int, ...]
    embeddings: torch.Tensor


def needs_statistics(settings: Settings) -> bool:
    """Whether the settings use the text encoder's reference statistics."""
    return (settings.scale_to_text and settings.normalization != "none") or settings.outlier_repair != "none"


def extract(settings: Settings, reference: Reference, text: Text, extractor: Extractor, encode: Encode, store: Store) -> torch.Tensor:
    """Hidden states of the rows that the settings select, float32 [m, hidden] on the CPU.

    Args:
        encode: The host's tokenizer, for a text of Qwen3-VL's own and for the template's head.
        store: Whole sequences are kept here, so that only the reference, the prompt, the model, the layer and the size make
            a new pass; everything after the selection is cheap.
    """
    checkpoint = extractor.checkpoint
    checkpoint.check_layer(settings.hidden_layer)
    ids = text.ids
    if settings.vl_prompt != PROMPT:
        ids = tuple(encode(TEMPLATE.format(settings.vl_prompt.replace(PROMPT, text.prompt))))
    grid = checkpoint.grid(reference, settings.reference_tokens)
    sequence = build_sequence(ids, grid, encode, settings.system_prompt.replace(PROMPT, text.prompt), checkpoint.vision_tokens)
    key = (checkpoint.identity, extractor.precision, reference.digest, sequence, settings.hidden_layer)
    states = store.get(key)
    if states is None:
        states = extractor.hidden_states(sequence, reference, settings.reference_tokens, [settings.hidden_layer])[settings.hidden_layer]
        store.put(key, states)
    return states[sequence.rows(settings.token_mode)]


def mix(settings: Settings, text: torch.Tensor, vl: torch.Tensor, statistics: ReferenceStatistics | None) -> torch.Tensor:
    """Repair, normalize, match and blend.

    Args:
        text: Text embeddings [n, hidden].
        vl: Selected hidden states [m, hidden].
        statistics: The text encoder's; needed when `needs_statistics` says so.

    Returns:
        The conditioning in the dtype and on the device of `text`, computed in float32. alpha 0 gives `text` itself.
    """
    if settings.alpha == 0.0:
        return text
    vl, _ = repair_outliers(vl.to(text.device, torch.float32), settings.outlier_repair, settings.outlier_threshold, statistics)
    vl = normalize(vl, settings.normalization if settings.scale_to_text else "none", statistics)
    vl, kept = match_length(vl, text.float(), settings.length_match)
    return blend(kept, vl, settings.alpha, settings.blend_mode).to(text.dtype)


def condition(
    settings: Settings,
    reference: Reference,
    text: Text,
    extractor: Extractor,
    encode: Encode,
    statistics: Callable[[], ReferenceStatistics],
    store: Store,
) -> torch.Tensor:
    """The conditioning for one prompt: what the image model gets instead of `text.embeddings`.

    Args:
        statistics: Called only when the settings need the text encoder's statistics.

    Raises:
        ZvlError: with one line for the user.
    """
    if settings.alpha == 0.0:
        return text.embeddings
    extractor.checkpoint.require_width(text.embeddings.shape[-1])
    vl = extract(settings, reference, text, extractor, encode, store)
    return mix(settings, text.embeddings, vl, statistics() if needs_statistics(settings) else None)
