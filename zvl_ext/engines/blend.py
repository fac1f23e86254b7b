"""Engine blend: Qwen3-VL reads the reference and the prompt."""

from __future__ import annotations

from collections.abc import Hashable

import torch

from ..hidden_layers import hidden_layers
from ..options import Settings
from ..qwen3vl.passes import Pass, whole_states
from ..reference import References
from ..sequence import Sequence
from .kept import sound_pass
from .sources import Job, Sources, seen


def check_layer(settings: Settings, sources: Sources) -> None:
    """Raise ZvlError unless Qwen3-VL has the settings' layers."""
    for layer in hidden_layers(settings).every:
        sources.extractor.checkpoint.check_layer(layer, sources.model)


def states(
    settings: Settings, references: References, jobs: list[Job], sources: Sources
) -> list[dict[int, torch.Tensor]]:
    """Engine blend: the whole sequences through Qwen3-VL, all layers in one run.

    What is kept has no layer in its key: a deeper one goes on from what is there, a shallower one is in it.
    """
    checkpoint, store = sources.extractor.checkpoint, sources.store
    named, layers = hidden_layers(settings).every, sources.layers(settings, checkpoint.layers)
    depth = max(map(checkpoint.depth, layers))
    groups: dict[tuple[Hashable, ...], list[Job]] = {}
    for job in jobs:
        key = ("pass", *seen(references, job.sequence.grids, sources), job.sequence.ids[: job.sequence.fork])
        groups.setdefault(key, []).append(job)
    made: dict[Sequence, dict[int, torch.Tensor]] = {}
    for key, group in groups.items():
        sequences = list(dict.fromkeys(job.sequence for job in group))
        behind = [sequence for sequence in sequences if len(sequence.ids) > sequence.fork]
        keys = [key, *((*key, *_tail(sequence)) for sequence in behind)]
        lengths = [sequences[0].fork, *(len(sequence.ids) - sequence.fork for sequence in behind)]
        kept = [_kept(k, length, sources) for k, length in zip(keys, lengths)]
        prefix, tails = kept[0], kept[1:] or [None]
        extended: list[Pass | None] = []
        if prefix is None or not all(each and each.depth >= depth for each in kept):
            prefix, tails = sources.extractor.extend(sequences, references, group[0].budget, depth, prefix, tails)
            extended = [prefix, *tails]
        for sequence, tail in zip(sequences, tails):
            states = {layer: whole_states(prefix, tail, layer, checkpoint) for layer in layers}
            made[sequence] = sources.model.joined(states, named, checkpoint.layers)
        for k, old, new in zip(keys, kept, extended):
            if new is not None and new is not old:  # here at last: values that are not finite have been refused
                store.put(k, new.tensors())
    return [made[job.sequence] for job in jobs]


def _tail(sequence: Sequence) -> tuple[Hashable, ...]:
    """What decides how a sequence's tokens behind the fork are read."""
    return sequence.ids[sequence.fork :], *([sequence.filled] if sequence.filled else [])


def _kept(key: Hashable, tokens: int, sources: Sources) -> Pass | None:
    """What is kept of so many tokens, where it is sound."""
    extractor = sources.extractor
    bundle = sources.store.get(
        key, lambda bundle: sound_pass(bundle, extractor.checkpoint, extractor.precision, tokens)
    )
    return Pass(**bundle) if bundle else None
