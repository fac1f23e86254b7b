"""Reference statistics of a text encoder by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..engines.sources import TextEncoder
from ..errors import ZvlError
from ..mixing import statistics
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
        first, others = math.hypot(*(each.first for each in found)), math.hypot(*(each.others for each in found))
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


def bundle(found: EncoderStatistics) -> dict[str, torch.Tensor]:
    """The same as tensors, for a store."""
    parts = {"norms": torch.tensor([layer[2:] for layer in found.layers], dtype=torch.float64)}
    for number, layer in enumerate(found.layers):
        for name, part in zip(("whole", "ordinary"), layer[:2]):
            parts |= {f"{number} {name} {key}": value for key, value in statistics.bundle_of(part).items()}
    return parts | {"prompts": torch.tensor(found.prompts)}


def of_bundle(parts: dict[str, torch.Tensor], layers: int, width: int) -> EncoderStatistics | None:
    """What `bundle` was given, of so many layers of that width; None where it is not that."""
    norms, prompts = parts.get("norms"), parts.get("prompts")
    if norms is None or prompts is None or norms.shape != (layers, 2) or prompts.ndim or not norms.isfinite().all():
        return None
    found = []
    for number, (first, others) in enumerate(norms.tolist()):
        sides = []
        for name in ("whole", "ordinary"):
            head = f"{number} {name} "
            own = {key.removeprefix(head): value for key, value in parts.items() if key.startswith(head)}
            if not statistics.sound(own, width):
                return None
            sides.append(statistics.of_bundle(own))
        found.append(Layer(sides[0], sides[1], first, others))
    return EncoderStatistics(tuple(found), int(prompts))


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
