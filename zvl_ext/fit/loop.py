"""The loop: whatever is learned, its steps, when it stops, and that it goes on where it was."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import ZvlError
from .state import Folder, Progress

if TYPE_CHECKING:
    import torch

    from .crew import Crew


@dataclass(frozen=True)
class Schedule:
    """How it is learned.

    Attributes:
        steps: At most.
        batch: Examples to a step, over all devices and all parts of it.
        at_once: Examples that a device takes at once; what is left of the batch is accumulated.
        rate: Adam's learning rate; it falls to nothing over the last third of the steps.
        every: Steps from one look at the held-out part to the next.
        patience: Looks without a smaller loss after which it stops.
        seed: Of everything that is drawn.
    """

    steps: int = 200
    batch: int = 24
    at_once: int = 24
    rate: float = 0.05
    every: int = 10
    patience: int = 5
    seed: int = 0


_OFTEN = 30.0  # seconds between two savings, where no look at the held-out part comes first


class Learner(Protocol):
    """What is learned, and from what.

    Attributes:
        parameters: What is learned, by name; changed in place.
    """

    parameters: dict[str, torch.Tensor]

    def learn(self, step: int, members: range) -> float:
        """The loss of some members of a step's batch, each with its share of the whole batch's mean, and its gradients
        added to the parameters'."""

    def held_out(self) -> float:
        """The mean loss of the part that decides when to stop, the same noise every time."""

    def bound(self) -> None:
        """Bring the parameters back to where they may be, after a step."""


def run(
    learner: Learner, schedule: Schedule, folder: Folder, crew: Crew, on_step: Callable[[Progress], None]
) -> tuple[Progress, dict[str, torch.Tensor]]:
    """Learn until the held-out part stops getting better, or the steps are done.

    Returns:
        The progress and the best parameters: those of the least held-out loss.

    Raises:
        ZvlError: the loss is no number any more, or the state can't be written. The last good state is kept.
        KeyboardInterrupt: as it comes; what was saved before it stays.
    """
    return _Run(learner, schedule, folder, crew).go(on_step)


class _Run:
    def __init__(self, learner: Learner, schedule: Schedule, folder: Folder, crew: Crew):
        import torch

        self._learner, self._schedule, self._folder, self._crew = learner, schedule, folder, crew
        self._own = learner.parameters
        self._adam = torch.optim.Adam(self._own.values(), lr=schedule.rate, betas=(0.9, 0.99))
        self._progress = Progress()
        self._best = self._copied()
        self._saved = time.monotonic()
        self._resume()

    def go(self, on_step: Callable[[Progress], None]) -> tuple[Progress, dict[str, torch.Tensor]]:
        progress, schedule = self._progress, self._schedule
        on_step(progress)
        while not progress.over:
            if progress.step % schedule.every == 0 and progress.step not in progress.seen:
                self._look()
            if progress.step >= schedule.steps or progress.waited >= schedule.patience:
                progress.over = True
                self._save()
                on_step(progress)
            else:
                self._step()
                on_step(progress)
                if time.monotonic() - self._saved > _OFTEN:
                    self._save()
        return progress, self._best

    def _step(self) -> None:
        step, schedule = self._progress.step, self._schedule
        loss = 0.0
        starts = range(0, schedule.batch, schedule.at_once)
        for number in self._crew.own(len(starts)):
            start = starts[number]
            loss += self._learner.learn(step, range(start, min(start + schedule.at_once, schedule.batch)))
        loss = self._whole(loss)
        for each in self._own.values():
            each.grad = self._crew.summed(_gradient(each))
        if not math.isfinite(loss) or not all(_gradient(each).isfinite().all() for each in self._own.values()):
            self._adam.zero_grad()
            self._save()
            raise ZvlError(
                f"The loss of step {step + 1} is not a number. The state of step {step} is kept. Try --dtype float32 "
                "or a smaller --rate, with another --state."
            )
        last = schedule.steps / 3
        for group in self._adam.param_groups:
            group["lr"] = schedule.rate * min(1.0, (schedule.steps - step) / last)
        self._adam.step()
        self._adam.zero_grad()
        self._learner.bound()
        self._progress.losses.append(loss)
        self._progress.step += 1

    def _whole(self, value: float) -> float:
        import torch

        return float(self._crew.summed(torch.tensor(value, dtype=torch.float64)))

    def _look(self) -> None:
        """See how the held-out part fares, and save."""
        progress = self._progress
        loss = self._learner.held_out()
        if not math.isfinite(loss):
            raise ZvlError("The held-out part's loss is not a number. Try --dtype float32.")
        if not progress.seen or loss < progress.seen[progress.best]:
            progress.best, self._best = progress.step, self._copied()
        progress.seen[progress.step] = loss
        self._save()

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: each.detach().clone() for name, each in self._own.items()}

    def _save(self) -> None:
        if not self._crew.first:
            return
        tensors = {f"best.{name}": each for name, each in self._best.items()}
        for name, each in self._own.items():
            tensors[f"value.{name}"] = each.detach().clone()
            for key, moment in self._adam.state.get(each, {}).items():
                tensors[f"{key}.{name}"] = moment.detach().clone()
        now = time.monotonic()
        self._progress.seconds += now - self._saved
        self._saved = now
        self._folder.save(self._progress, tensors)

    def _resume(self) -> None:
        import torch

        loaded = self._folder.load()
        if loaded is None:
            return
        self._progress, tensors = loaded
        try:
            self._best = {name: tensors[f"best.{name}"].to(each) for name, each in self._own.items()}
            with torch.no_grad():
                for name, each in self._own.items():
                    each.copy_(tensors[f"value.{name}"])
                    if self._progress.step:
                        moments = {key: tensors[f"{key}.{name}"].to(each.device) for key in ("exp_avg", "exp_avg_sq")}
                        self._adam.state[each] = {"step": tensors[f"step.{name}"], **moments}
        except (KeyError, RuntimeError) as error:
            raise ZvlError(f"{self._folder.path} is damaged. Delete it; the fit begins anew then.") from error


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
