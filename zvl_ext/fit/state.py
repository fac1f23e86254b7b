"""How far a fit has come, as a folder: killed at any time, it goes on from there with the same numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..output import written
from ..outside import plain, reason
from ..tensor_files import read, save

if TYPE_CHECKING:
    import torch

_STATE, _CURVE, _SECONDS = "state.safetensors", "curve.csv", "seconds.txt"
_LONGEST = 40  # characters of a number of seconds
_LARGEST = 2**34  # bytes of a state: of a LoRA of all blocks, and four times that of what learns it


@dataclass
class Progress:
    """Where the loop is.

    Attributes:
        step: How many steps are done.
        losses: Of each step.
        seen: Held-out losses by step.
        best: The step of the least held-out loss; 0 before there is one.
        over: Whether it has ended.
        seconds: How long it has learned, in all runs together; it decides nothing.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    seen: dict[int, float] = field(default_factory=dict)
    best: int = 0
    over: bool = False
    seconds: float = field(default=0.0, compare=False)

    @property
    def waited(self) -> int:
        """How often the held-out loss was asked for since it was the least."""
        return sum(step > self.best for step in self.seen)


def make_folder(path: str) -> None:
    """Make the folder of a fit's state where it is not there.

    Raises:
        ZvlError: it can't be a folder.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ZvlError(f"--state {plain(path, 120)} can't be a folder ({reason(error)}).") from error


class Folder:
    """The folder of a fit's state.

    Args:
        path: Made where it is not there.
        key: Identifies what is fitted, on what and how.

    Raises:
        ZvlError: it can't be a folder.
    """

    def __init__(self, path: str, key: str):
        make_folder(path)
        self.path, self._key = path, key

    def load(self) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """What was saved; None where nothing was.

        Raises:
            ZvlError: it is damaged, or of another fit.
        """
        path = os.path.join(self.path, _STATE)
        if not os.path.exists(path):
            return None
        tensors, metadata = read(path, _LARGEST)
        try:
            told = json.loads(metadata["fit"])
            key, seen = told["key"], {int(step): float(loss) for step, loss in told["seen"].items()}
            losses = tensors.pop("losses").tolist()
            progress = Progress(len(losses), losses, seen, int(told["best"]), bool(told["over"]), self._seconds())
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ZvlError(f"{plain(path, 120)} is damaged. Delete it; the fit begins anew then.") from error
        if key != self._key:
            raise ZvlError(
                f"{plain(self.path, 120)} holds the state of another fit: of other pictures, captions, weights or "
                "settings. Delete that folder, or name another with --state."
            )
        return progress, tensors

    def _seconds(self) -> float:
        try:
            with open(os.path.join(self.path, _SECONDS), encoding="ascii") as file:
                return float(file.read(_LONGEST))
        except (OSError, ValueError):
            return 0.0

    def save(self, progress: Progress, tensors: dict[str, torch.Tensor]) -> None:
        """Write the state and its curve. The last one stays where that fails."""
        import torch

        told = {"key": self._key, "seen": progress.seen, "best": progress.best, "over": progress.over}
        save(
            {**tensors, "losses": torch.tensor(progress.losses, dtype=torch.float64)},
            os.path.join(self.path, _STATE),
            {"fit": json.dumps(told)},  # one entry: the order of several is another every time
        )
        lines = ["step,loss,held out"]
        every = sorted({*range(1, progress.step + 1), *progress.seen})
        for step in every:
            loss = f"{progress.losses[step - 1]:.6f}" if step else ""
            held = f"{progress.seen[step]:.6f}" if step in progress.seen else ""
            lines.append(f"{step},{loss},{held}")
        # Apart from the state, which is the same whenever the same is learned.
        for name, text in ((_CURVE, "\n".join(lines)), (_SECONDS, f"{progress.seconds:.1f}")):
            with written(os.path.join(self.path, name)) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.write(text + "\n")
