"""What a step learns from: examples, how noisy each is, and its noise, by the step's number alone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from .judge import Lot, noise_of

if TYPE_CHECKING:
    from .loop import Schedule
    from .prepare import Prepared


class Lots:
    """All steps' batches.

    Args:
        learned: Examples to learn from: all of them in turn, in another order every time round.
        schedule: Its batch and its seed.
    """

    def __init__(self, learned: Prepared, schedule: Schedule):
        self._learned, self._batch, self._seed = learned, schedule.batch, schedule.seed

    def of(self, step: int, members: range) -> Lot:
        """A step's, or a part of it: the same examples, noise and places in whatever parts it is taken."""
        batch, own = self._batch, slice(members.start, members.stop)
        drawn = np.random.default_rng((self._seed, 1, step))
        places = (drawn.permutation(batch) + drawn.random(batch)) / batch
        noise = noise_of(self._learned, batch, (self._seed, 2, step))[own]
        numbers = [self._number(step * batch + member) for member in members]
        wanted = [self._learned.conditionings[number] for number in numbers]
        return Lot(numbers, noise, torch.from_numpy(places[own]).float(), wanted)

    def _number(self, place: int) -> int:
        """Which example comes at a place of the whole row."""
        turn, number = divmod(place, len(self._learned))
        return _shuffled(len(self._learned), self._seed, turn)[number]


@functools.lru_cache(maxsize=2)
def _shuffled(count: int, seed: int, turn: int) -> list[int]:
    order: list[int] = np.random.default_rng((seed, 0, turn)).permutation(count).tolist()
    return order
