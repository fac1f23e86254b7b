"""Engine splice: the image model's own text encoder reads what Qwen3-VL's vision tower sees.

The vision tower's tokens are put between the text encoder's own input embeddings, behind the template's head. The text
encoder then runs on embeddings.
"""

from __future__ import annotations

import dataclasses

import torch

from ..errors import ZvlError
from ..hidden_layers import hidden_layers
from ..image_models import READS
from ..options import PROMPT, Settings
from ..reference import Reference, References, in_order
from ..sequence import Grid
from ..store import Bundle
from .kept import sound_look, sound_prefix, sound_states
from .sources import ImageTokens, Job, KeysValues, Sources, digest_of, seen


def check_layer(settings: Settings, sources: Sources) -> None:
    """Raise ZvlError unless the text encoder has the settings' layers."""
    for layer in hidden_layers(settings).every:
        sources.model.check_layer(layer, sources.required_encoder.layers, "the text encoder")


def embeddings(
    text: torch.Tensor,
    system: torch.Tensor | None,
    between: list[torch.Tensor],
    images: list[torch.Tensor],
    head: int,
) -> torch.Tensor:
    """The input embeddings of the whole sequence: system, head, vision blocks, the rest of the text.

    Args:
        text: The host's own input embeddings [n, hidden], with whatever emphasis has done to them.
        system: Those of a system text in front, or None.
        between: Those of what stands before, between and behind the pictures: the blocks' markers, and the pictures'
            names.
        images: Each picture's image tokens [N, hidden].
        head: How many text rows stand before the vision blocks.

    Returns:
        On the text's device and in its dtype, wherever the others come from.
    """
    blocks = [part for pair in zip(between, images) for part in pair]
    parts = [text[:head], *blocks, between[-1], text[head:]]
    return torch.cat([part.to(text) for part in (parts if system is None else [system, *parts])])


def look(reference: Reference, grid: Grid, budget: int, sources: Sources) -> ImageTokens:
    """What the vision tower makes of a reference, for engine splice; run once for a reference and a size."""
    key = ("vision", *seen(reference, (grid,), sources))
    checkpoint = sources.extractor.checkpoint
    kept = sources.store.get(key, lambda bundle: sound_look(bundle, checkpoint, grid))
    if kept is None:
        kept = {"tokens": sources.extractor.image_tokens(reference, budget)}
        if not kept["tokens"].isfinite().all():
            raise ZvlError(
                f"The vision tower of {checkpoint.name} gives values that are not finite. Choose the device cpu, or "
                "other weights."
            )
        sources.store.put(key, kept)
    tokens, *deepstack = kept["tokens"]
    return ImageTokens(
        tokens,
        tuple(deepstack),
        tuple(checkpoint.config["text_config"]["rope_scaling"]["mrope_section"]),
    )


def _looks(references: References, job: Job, sources: Sources) -> ImageTokens:
    """As `look`, at all pictures of a sequence, one behind another."""
    pairs = zip(in_order(references), job.sequence.grids, strict=True)
    images = [look(reference, grid, job.budget, sources) for reference, grid in pairs]
    deepstack = zip(*(image.deepstack for image in images))
    return dataclasses.replace(
        images[0], tokens=torch.cat([image.tokens for image in images]), deepstack=tuple(map(torch.cat, deepstack))
    )


def states(
    settings: Settings, references: References, jobs: list[Job], sources: Sources
) -> list[dict[int, torch.Tensor]]:
    """Engine splice: the vision tower's tokens through the image model's own text encoder."""
    check_layer(settings, sources)
    return [_spliced(settings, references, job, sources) for job in jobs]


def _spliced(settings: Settings, references: References, job: Job, sources: Sources) -> dict[int, torch.Tensor]:
    encoder, store, sequence = sources.required_encoder, sources.store, job.sequence
    wanted = {layer: encoder.layers + layer + 1 for layer in sources.layers(settings, encoder.layers)}
    alone = len(sequence.ids) == sequence.fork  # no word of the prompt is read: whatever it is, the states are the same
    encoded = encoder.state if alone else job.text.digest
    what = seen(references, sequence.grids, sources)
    key = ("splice", *what, sequence, settings.positions, encoder.identity, encoded)

    told = encoder.layers + max(sources.model.read_at(READS, encoder.layers)) + 1

    def name(index: int) -> str:
        """What the prompt's embeddings tell of the text encoder ends where the image model reads them."""
        return f"{index} {encoder.state}".strip() if index > told else str(index)

    shape = (len(sequence.ids), sources.model.hidden(job.text.embeddings.shape[-1]))
    states: Bundle = store.get(key, lambda bundle: sound_states(bundle, shape)) or {}
    missing = {layer: k for layer, k in wanted.items() if name(k) not in states}
    if missing:
        first, last = min(missing.values()), max(missing.values())
        deepest = max((k for k in range(1, first) if name(k) in states), default=0)
        indices = list(range(deepest + 1, last + 1) if sources.every_layer else missing.values())
        start = states[name(deepest)] if deepest else None
        more = _read(settings, references, job, sources, indices, deepest, start)
        for layer, k in missing.items():
            if not more[k].isfinite().all():
                raise ZvlError(
                    f"Hidden layer {layer} of the text encoder has values that are not finite. Choose positions "
                    "sequential, or another layer."
                )
        states = states | {name(k): rows for k, rows in more.items() if rows.isfinite().all()}
        store.put(key, states, lasting=not (alone and encoder.state))
    read = {layer: states[name(k)] for layer, k in wanted.items()}
    return sources.model.joined(read, hidden_layers(settings).every, encoder.layers)


def _read(
    settings: Settings,
    references: References,
    job: Job,
    sources: Sources,
    indices: list[int],
    first: int,
    start: torch.Tensor | None,
) -> dict[int, torch.Tensor]:
    """The whole sequence's states at some layers, by index; from its states `start` at index `first` on, where they are
    kept."""
    encoder, sequence, mrope = sources.required_encoder, job.sequence, settings.positions == "mrope"
    if start is not None and not mrope and not encoder.goes_on:
        return encoder.states(start, indices, None, sequence, first)
    image = _looks(references, job, sources)
    read_as = image if mrope else None
    if not encoder.goes_on:
        rows = _spliced_embeddings(settings, image, job, sources) if start is None else start
        return encoder.states(rows, indices, read_as, sequence, first)
    embedded = _spliced_embeddings(settings, image, job, sources)
    before, past = _prefix(settings, references, job, sources, indices, embedded[: sequence.fork], read_as)
    tail = (embedded if start is None else start)[sequence.fork :]
    if not len(tail):
        return before
    past = KeysValues(past.keys[first : max(indices)], past.values[first : max(indices)])
    behind, _ = encoder.states_behind(tail, indices, read_as, sequence, first, past)
    return {k: torch.cat([before[k], behind[k]]) for k in indices}


def _prefix(
    settings: Settings,
    references: References,
    job: Job,
    sources: Sources,
    indices: list[int],
    rows: torch.Tensor,
    image: ImageTokens | None,
) -> tuple[dict[int, torch.Tensor], KeysValues]:
    """What a sequence is up to its fork, which no prompt changes: read once for all prompts behind it.

    Args:
        rows: Its input embeddings.
        image: With Qwen3-VL's way to count positions.

    Returns:
        States by index, and the keys and values of at least all layers up to the last index.
    """
    encoder, sequence, last = sources.required_encoder, job.sequence, max(indices)
    # Embeddings tell what is read, emphasis included; by `state` the text encoder is told that reads it.
    reader = (encoder.identity, encoder.state, digest_of(rows))
    what = seen(references, sequence.grids, sources)
    key = ("splice prefix", *what, sequence.ids[: sequence.fork], settings.positions, *reader)
    shape = (sequence.fork, rows.shape[-1])
    kept = sources.store.get(key, lambda bundle: sound_prefix(bundle, *shape)) or {}
    states = {int(name): part for name, part in kept.items() if name.isdigit()}
    missing = {k for k in (*indices, last) if k not in states}
    if not missing and len(kept["keys"]) >= last:
        return states, KeysValues(kept["keys"], kept["values"])
    # After all layers comes the final norm: nothing goes on from there.
    depth = len(kept["keys"]) if kept else 0
    first = max((k for k in states if k <= min(depth, *missing, encoder.layers - 1)), default=0)
    start = states[first] if first else rows
    more, new = encoder.states_behind(start, sorted(missing | {last}), image, sequence, first)
    old = (kept["keys"], kept["values"]) if kept else (new.keys[:0], new.values[:0])
    whole = KeysValues(*(torch.cat([part[:first], own, part[last:]]) for part, own in zip(old, new)))
    states |= more
    if all(part.isfinite().all() for part in (*states.values(), *whole)):
        kept = {"keys": whole.keys, "values": whole.values, **{str(k): v for k, v in states.items()}}
        sources.store.put(key, kept, lasting=not encoder.state)
    return states, whole


def _spliced_embeddings(settings: Settings, image: ImageTokens, job: Job, sources: Sources) -> torch.Tensor:
    """Input embeddings of the whole sequence [tokens, hidden]: the host's own where the prompt is read as it is."""
    encoder, sequence = sources.required_encoder, job.sequence
    own = job.text.inputs if settings.vl_prompt == PROMPT and len(sequence.ids) > sequence.fork else None
    if own is None:
        own = encoder.embed(
            [*sequence.ids[sequence.system : sequence.system + sequence.head], *sequence.ids[sequence.fork :]]
        )
    system = encoder.embed(list(sequence.ids[: sequence.system])) if sequence.system else None
    spans = sequence.between
    between = encoder.embed([id for span in spans for id in sequence.ids[span.start : span.stop]])
    images = torch.split(image.tokens, [len(block.positions) for block in sequence.blocks])
    return embeddings(own, system, list(torch.split(between, list(map(len, spans)))), list(images), sequence.head)
