"""A small thing to learn, and a crew of one, for the tests of the loop."""

from __future__ import annotations

import contextlib

import torch

from zvl_ext.fit.loop import Schedule

SHORT = Schedule(steps=6, batch=4, at_once=2, rate=0.1, every=3, patience=30)  # two parts to a step


class Alone:
    """A `fit.crew.Crew` of this process alone, without accelerate."""

    rank, count, device, bf16, first = 0, 1, "cpu", False, True

    def own(self, count: int) -> range:
        return range(count)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def computing(self):
        return contextlib.nullcontext()

    def together(self) -> None:
        pass


class Quadratic:
    """A `fit.loop.Learner`: two tables are led to 1 and -2, with noise that depends on the step alone."""

    def __init__(self, batch: int = 4, overfits_after: int = 10**9):
        self.parameters = {
            "main": torch.zeros(2, 3, requires_grad=True),
            "refiner": torch.zeros(1, 3, requires_grad=True),
        }
        self.batch, self.overfits_after, self.steps = batch, overfits_after, 0
        self.losses = {}  # what a step's loss is instead
        self.stop_at = None

    def _error(self) -> torch.Tensor:
        main, refiner = self.parameters.values()
        return (main - 1).square().mean() + (refiner + 2).square().mean()

    def learn(self, step: int, members: range) -> float:
        if step == self.stop_at:
            raise KeyboardInterrupt
        self.steps = step
        noise = torch.randn(self.batch, generator=torch.Generator().manual_seed(step))
        loss = sum(self._error() * (1 + 0.1 * noise[i]) for i in members) / self.batch
        loss = loss * self.losses.get(step, 1.0)
        loss.backward()
        return float(loss.detach())

    def held_out(self) -> float:
        return float(self._error().detach()) + max(0, self.steps - self.overfits_after)

    @torch.no_grad()
    def bound(self) -> None:
        for table in self.parameters.values():
            table.clamp_(-1.5, 5.0)
