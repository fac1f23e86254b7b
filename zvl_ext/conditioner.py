"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from .blend import blend
from .budget import MAX_TOKENS, dropped, token_budget
from .checkpoint import Checkpoint, check_layer
from .errors import ZvlError
from .language import Pass, whole_states
from .match import match_length, match_text
from .normalize import normalize, repair_outliers, sink_aware
from .options import PROMPT, Settings
from .reference import Reference
from .select import IMAGE_ONLY, Rows, drop_image_rows, select
from .sequence import TEMPLATE, Encode, Sequence, build_sequence
from .splice import ImageTokens, TextEncoder, embeddings
from .statistics import ReferenceStatistics
from .store import Store


class Extractor(Protocol):
    """What a host provides: Qwen3-VL on the host's device, loaded when it is first asked.

    Attributes:
        checkpoint: The weights' headers, known without loading them.
        precision: Device, dtype and storage as text; results of another precision are not reused.
    """

    checkpoint: Checkpoint
    precision: str

    def extend(
        self, sequences: list[Sequence], reference: Reference, tokens: int, depth: int, prefix: Pass | None = None, tails: list[Pass | None] | None = None
    ) -> tuple[Pass, list[Pass | None]]:
        """As `language.Qwen3VL.extend`, with the layers loaded that it needs."""

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
        store: What the language model and the vision tower leave is kept here, so that a reference is read once, and a prompt
            once behind it; everything after the selection is cheap.
        say: Takes a line for the user about something that was done differently.
        every_layer: Whether engine splice keeps the states at every layer it passes: for a grid over layers. (Engine blend
            always does: it needs them to go on from.)
    """

    extractor: Extractor
    encode: Encode
    statistics: Callable[[], ReferenceStatistics]
    text_encoder: TextEncoder | None
    store: Store
    say: Callable[[str], None] = lambda line: None
    every_layer: bool = False


def uses_sink_aware(settings: Settings) -> bool:
    return settings.scale_to_text and settings.normalization == "sink_aware"


def needs_statistics(settings: Settings) -> bool:
    """Whether the settings use the text encoder's reference statistics."""
    return (settings.scale_to_text and settings.normalization in ("global", "per_dim", "hybrid")) or settings.outlier_repair != "none"


def check_layer_of(settings: Settings, sources: Sources) -> None:
    """Raise ZvlError unless the model that reads has the settings' layer: before anything is loaded or run."""
    if settings.engine == "splice":
        check_layer(settings.hidden_layer, sources.text_encoder.layers, "the text encoder")
    else:
        sources.extractor.checkpoint.check_layer(settings.hidden_layer)


def extract(settings: Settings, reference: Reference, text: Text, sources: Sources) -> Rows:
    """The hidden states that the settings select, float32 on the CPU."""
    return extract_all(settings, reference, [text], sources)[0]


def extract_all(settings: Settings, reference: Reference, texts: list[Text], sources: Sources) -> list[Rows]:
    """As `extract`, for several prompts: a reference is read once for all of them."""
    make = _spliced_states if settings.engine == "splice" else _language_model_states
    jobs = [_job(settings, reference, text, sources) for text in texts]
    states = make(settings, reference, jobs, sources)
    return [select(rows, job.sequence, settings.token_mode) for rows, job in zip(states, jobs)]


@dataclass(frozen=True)
class _Job:
    """One prompt's part of an extraction: what is read, and the reference's token budget."""

    text: Text
    sequence: Sequence
    budget: int


def _job(settings: Settings, reference: Reference, text: Text, sources: Sources) -> _Job:
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
    return _Job(text, sequence.without_text() if settings.token_mode in IMAGE_ONLY else sequence, budget)


def _seen(reference: Reference, grid: tuple[int, int], sources: Sources) -> tuple:
    """What decides the vision tower's output."""
    return (sources.extractor.checkpoint.identity, sources.extractor.precision, reference.digest, grid)


def _language_model_states(settings: Settings, reference: Reference, jobs: list[_Job], sources: Sources) -> list[torch.Tensor]:
    """Engine blend: the whole sequences through Qwen3-VL, [tokens, hidden] each.

    What is kept has no layer in its key: a deeper one goes on from what is there, a shallower one is in it.
    """
    checkpoint, store, layer = sources.extractor.checkpoint, sources.store, settings.hidden_layer
    depth = checkpoint.depth(layer)
    groups: dict[tuple, list[_Job]] = {}
    for job in jobs:
        key = ("pass", *_seen(reference, job.sequence.grid, sources), job.sequence.ids[: job.sequence.fork])
        groups.setdefault(key, []).append(job)
    states: dict[Sequence, torch.Tensor] = {}
    for key, group in groups.items():
        sequences = list(dict.fromkeys(job.sequence for job in group))
        keys = [key, *((*key, sequence.ids[sequence.fork :]) for sequence in sequences if len(sequence.ids) > sequence.fork)]
        kept = [Pass(**bundle) if (bundle := store.get(k)) else None for k in keys]
        prefix, tails = kept[0], kept[1:] or [None]
        ready = all(each and each.depth >= depth for each in kept)
        if not ready:
            prefix, tails = sources.extractor.extend(sequences, reference, group[0].budget, depth, prefix, tails)
        states |= {sequence: whole_states(prefix, tail, layer, checkpoint) for sequence, tail in zip(sequences, tails)}
        for k, old, new in zip(keys, kept, [] if ready else [prefix, *tails]):
            if new is not old:  # here at last: values that are not finite have been refused
                store.put(k, new.tensors())
    return [states[job.sequence] for job in jobs]


def look(reference: Reference, grid: tuple[int, int], budget: int, sources: Sources) -> ImageTokens:
    """What the vision tower makes of a reference, for engine splice; run once for a reference and a size."""
    key = ("vision", *_seen(reference, grid, sources))
    kept = sources.store.get(key)
    if kept is None:
        kept = {"tokens": sources.extractor.image_tokens(reference, budget)}
        sources.store.put(key, kept)
    tokens, *deepstack = kept["tokens"]
    return ImageTokens(tokens, tuple(deepstack), tuple(sources.extractor.checkpoint.config["text_config"]["rope_scaling"]["mrope_section"]))


def _spliced_states(settings: Settings, reference: Reference, jobs: list[_Job], sources: Sources) -> list[torch.Tensor]:
    """Engine splice: the vision tower's tokens through the image model's own text encoder."""
    check_layer_of(settings, sources)
    return [_spliced(settings, reference, job, sources) for job in jobs]


def _spliced(settings: Settings, reference: Reference, job: _Job, sources: Sources) -> torch.Tensor:
    encoder, store, sequence, layer = sources.text_encoder, sources.store, job.sequence, settings.hidden_layer
    wanted = encoder.layers + layer + 1
    alone = len(sequence.ids) == sequence.fork  # no word of the prompt is read: whatever it is, the states are the same
    encoded = encoder.state if alone else job.text.digest
    key = ("splice", *_seen(reference, sequence.grid, sources), sequence, settings.positions, encoder.identity, encoded)
    states = store.get(key) or {}
    if str(wanted) not in states:
        deepest = max((int(k) for k in states if int(k) < wanted), default=0)
        embeds = states[str(deepest)] if deepest else None
        image = None
        if embeds is None or settings.positions == "mrope":
            image = look(reference, sequence.grid, job.budget, sources)
        if embeds is None:
            embeds = _spliced_embeddings(settings, image, job, sources)
        indices = range(deepest + 1, wanted + 1) if sources.every_layer else [wanted]
        more = encoder.states(embeds, indices, image if settings.positions == "mrope" else None, sequence, deepest)
        states = states | {str(k): rows for k, rows in more.items()}
        if not torch.isfinite(states[str(wanted)]).all():
            raise ZvlError(f"Hidden layer {layer} of the text encoder has values that are not finite. Choose positions sequential, or another layer.")
        store.put(key, states)
    return states[str(wanted)]


def _spliced_embeddings(settings: Settings, image: ImageTokens, job: _Job, sources: Sources) -> torch.Tensor:
    """Input embeddings of the whole sequence [tokens, hidden]: the host's own where the prompt is read as it is."""
    encoder, sequence, vision = sources.text_encoder, job.sequence, sources.extractor.checkpoint.vision_tokens
    own = job.text.inputs if settings.vl_prompt == PROMPT and len(sequence.ids) > sequence.fork else None
    if own is None:
        own = encoder.embed([*sequence.ids[sequence.system : sequence.system + sequence.head], *sequence.ids[sequence.fork :]])
    system = encoder.embed(list(sequence.ids[: sequence.system])) if sequence.system else None
    return embeddings(own, system, encoder.embed([vision.start, vision.end]).to(own), image.tokens, sequence.head)


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
    return condition_all(settings, reference, [text], sources)[0](seed)


def condition_all(settings: Settings, reference: Reference, texts: list[Text], sources: Sources) -> list[Callable[[int], torch.Tensor]]:
    """As `condition`, for several prompts, all read at once: for each a function from a picture's seed to its conditioning."""
    if settings.alpha == 0.0:
        return [lambda seed, text=text: text.embeddings for text in texts]
    for text in texts:
        sources.extractor.checkpoint.require_width(text.embeddings.shape[-1])
    statistics = sources.statistics() if needs_statistics(settings) else None

    def mixed(text: Text, rows: Rows, seed: int) -> torch.Tensor:
        rows = drop_image_rows(rows, dropped(settings, int(rows.image.sum())), seed)
        return mix(settings, text.embeddings, rows, statistics)

    return [functools.partial(mixed, text, rows) for text, rows in zip(texts, extract_all(settings, reference, texts, sources))]
