"""Losses of examples, with the same noise whatever they are judged under: what is kept out is compared by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..hosts.standalone_learning import learning
from .flow import errors, noise_levels

if TYPE_CHECKING:
    from .crew import Crew
    from .prepare import Prepared

_LOOKS = 4  # noise levels that an example is seen at
Tables = dict[str, torch.Tensor]  # "main" and "refiner", log-weights [blocks, heads]


@dataclasses.dataclass(frozen=True)
class Judge:
    """Sees how the image model does.

    Attributes:
        transformer: The image model, on its device.
        at_once: How many pictures it makes at once.
        seed: Of the noise.
        shift: Of the noise levels, as sampling has it.
    """

    transformer: Any
    at_once: int
    seed: int
    shift: float
    crew: Crew

    def tables(self, value: float = 0.0) -> Tables:
        """Log-weights that are alike for all heads."""
        model, device = self.transformer, self.crew.device
        return {
            name: torch.full((len(blocks), blocks[0].attention.heads), value, device=device)
            for name, blocks in (("main", model.layers), ("refiner", model.context_refiner))
        }

    def errors(
        self, prepared: Prepared, numbers: Sequence[int], noise: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        """As `flow.errors`, of examples by number, at places as `noise_levels` has them. For gradients, `learning` has
        to be open around this and what follows."""
        rows = [prepared.conditionings[number].rows for number in numbers]
        with self.crew.computing():
            return errors(self.transformer, prepared.targets(numbers), noise, noise_levels(places, self.shift), rows)

    @torch.no_grad()
    def losses(self, prepared: Prepared, tables: Tables | None = None, weight: float | None = None) -> np.ndarray:
        """The loss of each example, float64 [examples].

        Args:
            tables: Log-weights; None: all heads are alike.
            weight: The references' weight; None: their own.
        """
        tables = self.tables() if tables is None else tables
        made = torch.zeros(len(prepared), _LOOKS, dtype=torch.float64)
        looks = [(number, look) for number in self.crew.own(len(prepared)) for look in range(_LOOKS)]
        for start in range(0, len(looks), self.at_once):
            part = looks[start : start + self.at_once]
            numbers = [number for number, _ in part]
            noise = torch.cat([noise_of(prepared, 1, (self.seed, 3, *look)) for look in part])
            places = (torch.tensor([look for _, look in part]) + 0.5) / _LOOKS
            wanted = [prepared.weighted(number, weight) for number in numbers]
            with learning(self.transformer, wanted, (1 - places).tolist(), **tables):
                errors = self.errors(prepared, numbers, noise, places)
            made[numbers, [look for _, look in part]] = errors.double().cpu()
        return self.crew.summed(made).mean(1).numpy()


def noise_of(prepared: Prepared, count: int, seed: Sequence[int]) -> torch.Tensor:
    """Noise for that many pictures, the same on every device, float32 [count, channels, height, width]."""
    shape = next(iter(prepared.latents.values())).shape
    return torch.from_numpy(np.random.default_rng(tuple(seed)).standard_normal((count, *shape), np.float32))
