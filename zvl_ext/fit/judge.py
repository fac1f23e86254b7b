"""How far the image model is from itself: with a part of a caption and a reference, beside the whole caption.

The image model is taught by itself. What it makes of a noisy picture with the whole caption and no reference is wanted
of it where the prompt says a part of that and the reference shows the rest. (Context distillation, Askell et al.,
arXiv 2112.00861, section 2.3, with a caption for the context.) Against the picture itself, as training compares, nearly
all of the difference is noise that nothing could foresee: what a reference changes would have to be found in it. And
what is made stays what this image model makes: one that was distilled to few steps remains so.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..hosts.standalone_learning import learning
from ..hosts.standalone_lora import without_loras
from .flow import noise_levels, velocities

if TYPE_CHECKING:
    from ..conditioning import Conditioning
    from .crew import Crew
    from .prepare import Prepared

LOOKS = 4  # noise levels that an example is seen at
Tables = dict[str, torch.Tensor]  # "main" and "refiner", log-weights [blocks, heads]


@dataclasses.dataclass(frozen=True)
class Lot:
    """Some examples, each with noise of its own.

    Attributes:
        numbers: Of the examples.
        noise: float32 [members, channels, height, width].
        places: As `flow.noise_levels` has them, float32 [members].
        conditionings: Of the examples.
    """

    numbers: list[int]
    noise: torch.Tensor
    places: torch.Tensor
    conditionings: list[Conditioning]

    @property
    def ways(self) -> list[float]:
        """The share of the steps that are done, of each."""
        ways: list[float] = (1 - self.places).tolist()
        return ways


@dataclasses.dataclass(frozen=True)
class Judge:
    """Sees how the image model does.

    Attributes:
        transformer: The image model, on its device. LoRAs may come and go; what is wanted is always asked without.
        at_once: How many pictures it makes at once.
        seed: Of the noise.
        shift: Of the noise levels, as sampling has it.
    """

    transformer: Any
    at_once: int
    seed: int
    shift: float
    crew: Crew
    _wanted: weakref.WeakKeyDictionary[Prepared, dict[int, torch.Tensor]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False
    )

    def tables(self, value: float = 0.0) -> Tables:
        """Log-weights that are alike for all heads."""
        model, device = self.transformer, self.crew.device
        return {
            name: torch.full((len(blocks), blocks[0].attention.heads), value, device=device)
            for name, blocks in (("main", model.layers), ("refiner", model.context_refiner))
        }

    @torch.no_grad()
    def wanted(self, prepared: Prepared, lot: Lot) -> torch.Tensor:
        """The image model's velocities with the whole captions, float32 [members, channels, height, width]."""
        rows = [prepared.captions[prepared.examples[number].picture] for number in lot.numbers]
        with without_loras(self.transformer):
            return self._velocities(prepared, lot, rows)

    def errors(self, prepared: Prepared, lot: Lot, wanted: torch.Tensor) -> torch.Tensor:
        """The mean squared distance from what is wanted, float32 [members]. `learning` has to be open around this and,
        for gradients, around what follows."""
        made = self._velocities(prepared, lot, [each.rows for each in lot.conditionings])
        return (made - wanted.to(made)).square().mean((1, 2, 3))

    def _velocities(self, prepared: Prepared, lot: Lot, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        with self.crew.computing():
            levels = noise_levels(lot.places, self.shift)
            return velocities(self.transformer, prepared.targets(lot.numbers), lot.noise, levels, rows)

    @torch.no_grad()
    def losses(self, prepared: Prepared, tables: Tables | None = None, weight: float | None = None) -> np.ndarray:
        """The loss of each example, float64 [examples]: the same noise every time, whatever is asked.

        Args:
            tables: Log-weights; None: all heads are alike.
            weight: The references' weight; None: their own.
        """
        tables = self.tables() if tables is None else tables
        made = torch.zeros(len(prepared), LOOKS, dtype=torch.float64)
        wanted = self._wanted.setdefault(prepared, {})
        looks = [(number, look) for number in self.crew.own(len(prepared)) for look in range(LOOKS)]
        for start in range(0, len(looks), self.at_once):
            part = looks[start : start + self.at_once]
            numbers = [number for number, _ in part]
            noise = torch.cat([noise_of(prepared, 1, (self.seed, 3, *look)) for look in part])
            places = (torch.tensor([look for _, look in part]) + 0.5) / LOOKS
            lot = Lot(numbers, noise, places, [prepared.weighted(number, weight) for number in numbers])
            if start not in wanted:  # it is the same for whatever is compared with it
                wanted[start] = self.wanted(prepared, lot).cpu()
            with learning(self.transformer, lot.conditionings, lot.ways, **tables):
                errors = self.errors(prepared, lot, wanted[start])
            made[numbers, [look for _, look in part]] = errors.double().cpu()
        return self.crew.summed(made).mean(1).numpy()


def noise_of(prepared: Prepared, count: int, seed: Sequence[int]) -> torch.Tensor:
    """Noise for that many pictures, the same on every device, float32 [count, channels, height, width]."""
    shape = next(iter(prepared.latents.values())).shape
    return torch.from_numpy(np.random.default_rng(tuple(seed)).standard_normal((count, *shape), np.float32))
