"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch

from .blend import blend
from .budget import MAX_TOKENS, dropped, token_budget
from .checkpoint import Checkpoint, check_layer
from .errors import ZvlError
from .match import match_length, match_text
from .normalize import normalize, repair_outliers, sink_aware
from .options import PROMPT, Settings
from .reference import Reference
from .select import Rows, drop_image_rows, select
from .sequence import TEMPLATE, Encode, Sequence, build_sequence
from .splice import ImageTokens, TextEncoder, embeddings
from .statistics import ReferenceStatistics
from .store import Store


class Extractor(Protocol):
    """What a host provides: Qwen3-VL on the host's device, loaded when it is first asked.

    Attributes:
        checkpoint: The weights' headers, known without loading them.
        precision: Device and dtype as text; results of another precision are not reused.
    """

    checkpoint: Checkpoint
    precision: str

    def hidden_states(self, sequence: Sequence, reference: Reference, tokens: int, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """As `language.Qwen3VL.hidden_states`."""

    def image_tokens(self, reference: Reference, tokens: int) -> torch.Tensor:
        """The vision tower's output, float32 [1 + DeepStack additions, N, hidden] on the CPU: image tokens first."""


@dataclass(frozen=True)
class Text:
    """What the host made of one prompt.

    Attributes:
        prompt: The prompt as the host's text encoder got it.
        ids: The host's n token ids, template included.
        embeddings: float [n, hidden].
        inputs: The text encoder's input embeddings [n, hidden], emphasis included, for splice; None where the host keeps them.
    """

    prompt: str
    ids: tuple[int, ...]
    embeddings: torch.Tensor
    inputs: torch.Tensor | None = None

    @functools.cached_property
    def digest(self) -> str:
        """Of what goes into the text encoder and what comes out: it names the text encoder's weights, LoRA included."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.embeddings):
            if tensor is not None:
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass
class Sources:
    """What conditioning draws on.

    Attributes:
        extractor: Qwen3-VL.
        encode: The host's tokenizer, for the template's head and for texts of Qwen3-VL's own.
        statistics: Gives the text encoder's reference statistics; called only when the settings need them.
        text_encoder: Needed by engine splice.
        store: Hidden states of whole sequences are kept here, so that only the reference, the prompt, the model, the layer and
            the size make a new pass; everything after the selection is cheap.
        say: Takes a line for the user about something that was done differently.
    """

    extractor: Extractor
    encode: Encode
    statistics: Callable[[], ReferenceStatistics]
    text_encoder: TextEncoder | None
    store: Store
    say: Callable[[str], None] = lambda line: None


def uses_sink_aware(settings: Settings) -> bool:
    return settings.scale_to_text and settings.normalization == "sink_aware"


def needs_statistics(settings: Settings) -> bool:
    """Whether the settings use the text encoder's reference statistics."""
    return (settings.scale_to_text and settings.normalization in ("global", "per_dim", "hybrid")) or settings.outlier_repair != "none"


def extract(settings: Settings, reference: Reference, text: Text, sources: Sources) -> Rows:
    """The hidden states that the settings select, float32 on the CPU."""
    checkpoint = sources.extractor.checkpoint
    ids = text.ids
    if settings.vl_prompt != PROMPT:
        ids = tuple(sources.encode(TEMPLATE.format(settings.vl_prompt.replace(PROMPT, text.prompt))))
    budget = token_budget(settings, len(text.ids))
    grid = checkpoint.grid(reference, budget)
    wanted = checkpoint.grid(reference, settings.reference_tokens)
    if grid != wanted:
        sources.say(
            f"Z-Image VL: the reference was reduced from {wanted[0] * wanted[1]} to {grid[0] * grid[1]} tokens, "
            f"so that the conditioning has no more than {MAX_TOKENS}."
        )
    sequence = build_sequence(ids, grid, sources.encode, settings.system_prompt.replace(PROMPT, text.prompt), checkpoint.vision_tokens)
    make = _spliced_states if settings.engine == "splice" else _language_model_states
    return select(make(settings, reference, budget, sequence, text, sources), sequence, settings.token_mode)


def _language_model_states(settings: Settings, reference: Reference, budget: int, sequence: Sequence, text: Text, sources: Sources) -> torch.Tensor:
    """Engine blend: the whole sequence through Qwen3-VL."""
    extractor, layer = sources.extractor, settings.hidden_layer
    extractor.checkpoint.check_layer(layer)
    key = ("blend", extractor.checkpoint.identity, extractor.precision, reference.digest, sequence, layer)
    states = sources.store.get(key)
    if states is None:
        states = extractor.hidden_states(sequence, reference, budget, [layer])[layer]
        sources.store.put(key, states)
    return states


def _spliced_states(settings: Settings, reference: Reference, budget: int, sequence: Sequence, text: Text, sources: Sources) -> torch.Tensor:
    """Engine splice: the vision tower's tokens through the image model's own text encoder."""
    extractor, encoder, layer = sources.extractor, sources.text_encoder, settings.hidden_layer
    check_layer(layer, encoder.layers, "the text encoder")
    seen = ("vision", extractor.checkpoint.identity, extractor.precision, reference.digest, sequence.grid)
    key = ("splice", seen, sequence, layer, settings.positions, encoder.identity, text.digest)
    states = sources.store.get(key)
    if states is not None:
        return states
    stacked = sources.store.get(seen)
    if stacked is None:
        stacked = extractor.image_tokens(reference, budget)
        sources.store.put(seen, stacked)
    section = extractor.checkpoint.config["text_config"]["rope_scaling"]["mrope_section"]
    image = ImageTokens(stacked[0], tuple(stacked[1:]), tuple(section))
    vision = extractor.checkpoint.vision_tokens
    own = text.inputs if settings.vl_prompt == PROMPT else None
    if own is None:
        own = encoder.embed([*sequence.ids[sequence.system : sequence.system + sequence.head], *sequence.ids[sequence.image_end + 1 :]])
    system = encoder.embed(list(sequence.ids[: sequence.system])) if sequence.system else None
    embeds = embeddings(own, system, encoder.embed([vision.start, vision.end]).to(own), image.tokens, sequence.head)
    states = encoder.hidden_states(embeds, layer, image if settings.positions == "mrope" else None, sequence)
    if not torch.isfinite(states).all():
        raise ZvlError(f"Hidden layer {layer} of the text encoder has values that are not finite. Choose positions sequential, or another layer.")
    sources.store.put(key, states)
    return states


def mix(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> torch.Tensor:
    """Repair, normalize, match and blend.

    Row 0 of the result is the text embeddings' own under normalization sink_aware and in engine splice: position 0 is the
    attention sink, which is not about the picture.

    Args:
        text: Text embeddings [n, hidden].
        rows: Selected hidden states.
        statistics: The text encoder's; needed when `needs_statistics` says so.

    Returns:
        The conditioning in the dtype and on the device of `text`, computed in float32. alpha 0 gives `text` itself.
    """
    if settings.alpha == 0.0:
        return text
    base = text.float()
    states, _ = repair_outliers(rows.states.to(text.device, torch.float32), settings.outlier_repair, settings.outlier_threshold, statistics)
    if uses_sink_aware(settings):
        states = sink_aware(states, base, rows.holds_first)
    elif settings.scale_to_text:
        states = normalize(states, settings.normalization, statistics)
    own, head, first = rows.text.to(states.device), rows.head, base[:0]
    if settings.engine == "splice" or uses_sink_aware(settings):
        first, base, head = base[:1], base[1:], head - 1
        if rows.holds_first:
            states, own = states[1:], own[1:]
    if settings.length_match == "insert":
        if own.any():
            base = blend(base, match_text(states[own], base, head, rows.tail), settings.alpha, settings.blend_mode)
        result = torch.cat([base[:head], states[~own], base[head:]])
    else:
        vl, base = match_length(states, base, settings.length_match)
        result = blend(base, vl, settings.alpha, settings.blend_mode)
    return torch.cat([first, result]).to(text.dtype)


def condition(settings: Settings, reference: Reference, text: Text, sources: Sources, seed: int = 0) -> torch.Tensor:
    """The conditioning for one prompt: what the image model gets instead of `text.embeddings`.

    Args:
        seed: The picture's; decides which image rows are dropped.

    Raises:
        ZvlError: with one line for the user.
    """
    if settings.alpha == 0.0:
        return text.embeddings
    sources.extractor.checkpoint.require_width(text.embeddings.shape[-1])
    rows = extract(settings, reference, text, sources)
    rows = drop_image_rows(rows, dropped(settings, int(rows.image.sum())), seed)
    return mix(settings, text.embeddings, rows, sources.statistics() if needs_statistics(settings) else None)
