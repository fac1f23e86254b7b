"""One log-weight for each head of the image model's blocks, learned with everything else as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..hosts.standalone_learning import learning
from .judge import Judge, Tables
from .lots import Lots

if TYPE_CHECKING:
    from .loop import Schedule
    from .prepare import Prepared

SINGLE = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # weights that what is learned is compared with
_BEGIN = 1e-3  # every head's log-weight: 0 everywhere would be no weighting at all, which has no gradients
LOWEST, HIGHEST = -8.0, 2.0  # of a log-weight: 0.0003 is nothing, and seven times is more than was ever good


class HeadWeights:
    """A `loop.Learner` of log-weights.

    Args:
        judge: Has the image model, which is frozen.
        learned, deciding: Examples to learn from, and those that decide when to stop.
        schedule: Its batch and its seed.
        together: How strongly heads are held to one weight: what the mean square of their log-weights' distance from
            their mean counts beside the loss.
    """

    def __init__(
        self,
        judge: Judge,
        learned: Prepared,
        deciding: Prepared,
        schedule: Schedule,
        together: float,
    ):
        self._judge, self._schedule, self._together = judge, schedule, together
        self._learned, self._deciding = learned, deciding
        self._lots = Lots(learned, schedule)
        self.parameters: Tables = {n: t.requires_grad_() for n, t in judge.tables(_BEGIN).items()}

    def learn(self, step: int, members: range) -> float:
        lot, batch = self._lots.of(step, members), self._schedule.batch
        wanted = self._judge.wanted(self._learned, lot)
        with learning(self._judge.transformer, lot.conditionings, lot.ways, **self.parameters):
            loss = self._judge.errors(self._learned, lot, wanted).sum() / batch
            if members.start == 0:  # once in a batch
                loss = loss + self._together * spread(self.parameters)
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def held_out(self) -> float:
        return float(self._judge.losses(self._deciding, self.parameters).mean())

    @torch.no_grad()
    def bound(self) -> None:
        for table in self.parameters.values():
            table.clamp_(LOWEST, HIGHEST)


def spread(tables: Tables) -> torch.Tensor:
    """The mean square of log-weights' distance from their mean."""
    every = torch.cat([table.flatten() for table in tables.values()])
    return (every - every.mean()).square().mean()


def best_single(judge: Judge, prepared: Prepared, tables: Tables | None = None) -> float:
    """The weight for all heads with the least loss on some examples.

    Args:
        tables: Log-weights that it multiplies; None: all heads are alike.
    """
    found = {weight: float(judge.losses(prepared, tables, weight).mean()) for weight in SINGLE}
    return min(found, key=found.__getitem__)


def centred(tables: Tables) -> Tables:
    """Log-weights moved together so that their mean is 0: what heads differ in is learned, how strong a reference is in
    all stays the user's, whose weight they are multiplied with. (The loss alone would have it weak: a reference
    that contradicts what is wanted costs more than another one gains.)"""
    mean = torch.cat([table.flatten() for table in tables.values()]).mean()
    return {name: table - mean for name, table in tables.items()}
