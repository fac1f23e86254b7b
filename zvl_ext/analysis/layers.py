"""Reference statistics of a text encoder by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..engines.sources import TextEncoder
from ..errors import ZvlError
from ..mixing.statistics import Moments, ReferenceStatistics
from ..sequence import Encode, Template


class Layer(NamedTuple):
    """What one layer of a text encoder gives.

    Attributes:
        whole: Of all rows.
        ordinary: Without position 0, the attention sink.
        first, others: Mean norm of position 0, and of all other rows.
    """

    whole: ReferenceStatistics
    ordinary: ReferenceStatistics
    first: float
    others: float

    @property
    def sink(self) -> float:
        """How many times larger position 0 is."""
        return self.first / self.others if self.others else 0.0


@dataclass(frozen=True)
class EncoderStatistics:
    """Of a text encoder, layer by layer.

    Attributes:
        layers: From the first; layer -1 is the last one, behind the final norm.
        prompts: How many they were measured on.
    """

    layers: tuple[Layer, ...]
    prompts: int

    def at(self, layers: Iterable[int]) -> Layer:
        """What an image model takes that reads these layers (negative ones), side by side in a row."""
        found = [self.layers[layer] for layer in layers]
        if len(found) == 1:
            return found[0]
        first, others = ((sum(each[i] ** 2 for each in found)) ** 0.5 for i in (2, 3))
        return Layer(beside([each.whole for each in found]), beside([each.ordinary for each in found]), first, others)


def beside(parts: list[ReferenceStatistics]) -> ReferenceStatistics:
    """The statistics of rows in which others stand side by side, from those of each; of as many tokens."""
    mean, spread = (torch.cat([getattr(part, name) for part in parts]) for name in ("per_dim_mean", "per_dim_std"))
    tokens = parts[0].tokens
    squares = (tokens - 1) * spread.double().square().sum() + tokens * (
        (mean.double() - mean.double().mean()).square().sum()
    )
    values = tokens * len(mean)
    return ReferenceStatistics(mean, spread, float((squares / max(values - 1, 1)).sqrt()), tokens)


class _Norms:
    """Sums of norms of rows that come piece by piece."""

    def __init__(self) -> None:
        self.first = self.others = 0.0
        self.sequences = self.rows = 0

    def add(self, states: torch.Tensor) -> None:
        norms = states.norm(dim=1)
        self.first += float(norms[0])
        self.others += float(norms[1:].sum())
        self.sequences, self.rows = self.sequences + 1, self.rows + len(norms) - 1

    @property
    def means(self) -> tuple[float, float]:
        return self.first / max(self.sequences, 1), self.others / max(self.rows, 1)


def encoder_statistics(
    encoder: TextEncoder,
    encode: Encode,
    template: Template,
    prompts: Iterable[str],
    on_prompt: Callable[[int], None] = lambda done: None,
) -> EncoderStatistics:
    """Measure a text encoder on prompts, each read alone.

    Args:
        encode: Its tokenizer.
        template: What stands around a prompt. Tokens that only fill it up are left out.
        on_prompt: Told before each prompt how many are done; what it raises ends the work.

    Raises:
        ZvlError: what it gives is not finite.
    """
    indices = range(1, encoder.layers + 1)
    whole, ordinary = ({index: Moments() for index in indices} for _ in range(2))
    norms, count = {index: _Norms() for index in indices}, 0
    for prompt in prompts:
        on_prompt(count)
        states = encoder.states(encoder.embed(list(encode(template.text.format(prompt)))), indices, None, None)
        for index, rows in states.items():
            if not rows.isfinite().all():
                raise ZvlError(
                    f"The text encoder gives values that are not finite at layer {index}. Let it compute in bfloat16 "
                    "or float32."
                )
            whole[index].add(rows)
            ordinary[index].add(rows[1:])
            norms[index].add(rows)
        count += 1
    layers = (Layer(whole[i].statistics(), ordinary[i].statistics(), *norms[i].means) for i in indices)
    return EncoderStatistics(tuple(layers), count)
