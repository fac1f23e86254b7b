"""A sweep at work: cells are handed out, what comes back is measured and kept, and a run that was ended goes on."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from PIL import Image

from ...errors import ZvlError
from ...measures import DIVERSITY, Metric, Shown, measured, opened
from ...outside import plain, read_regular, reason
from ...reference import MAX_BYTES, open_reference
from ..work import Done, handed_out
from .cells import Cell, Picture, Sweep
from .folder import Folder
from .targets import Job, Made, Target

_KEPT = 16  # references in memory


class Run:
    """One run of a sweep into its folder.

    Args:
        metrics: What is measured of each picture.
    """

    def __init__(self, sweep: Sweep, folder: Folder, metrics: Iterable[Metric]):
        self.sweep, self.folder = sweep, folder
        self.metrics = list(metrics)
        self._by = {metric.name: metric.identity for metric in self.metrics if metric.identity}
        self._data = lru_cache(maxsize=_KEPT)(_read)
        self._image = lru_cache(maxsize=_KEPT)(lambda picture: open_reference(self._data(picture)).image)

    def missing(self, on_cell: Callable[[], None] = lambda: None) -> tuple[int, list[int]]:
        """How many cells there are, each picture counted once, and the places of those that are not done."""
        count, left = 0, []
        for cell in self.sweep:
            count += 1
            if not self.folder.holds(cell.key):
                left.append(cell.number)
            on_cell()
        return count, left

    def make(
        self, numbers: Iterable[int], target: Target, on_cell: Callable[[int], Any] = lambda count: None
    ) -> Done[Cell]:
        """Make the cells at these places.

        Raises:
            ZvlError: nothing can be made, or kept, any more. What is done stays.
        """
        return handed_out(map(self.sweep.cell, numbers), target, self._job, self._keep, lambda cell: on_cell(1))

    def _keep(self, cell: Cell, made: Made) -> None:
        self.folder.add(self._line(cell, made), made.picture)

    def table(self) -> list[dict[str, Any]]:
        """The lines of the cells that are done, in the sweep's order, with all that is to be measured of them."""
        lines = []
        for cell in self.sweep:
            if (line := self.folder.done.get(cell.key)) is not None:
                lines.append(self._complete(cell, line))
        self._spread(lines)
        return lines

    def _job(self, cell: Cell) -> Job:
        pictures = {name: self._data(picture) for name, picture in cell.pictures.items()}
        group = " ".join(sorted(picture.digest for picture in cell.pictures.values()))
        return Job(cell.settings, cell.asked, pictures, group)

    def _line(self, cell: Cell, made: Made) -> dict[str, Any]:
        values = measured(self.metrics, self._shown(cell, made.picture))
        return {
            "key": cell.key,
            "place": cell.place,
            "settings": cell.settings,
            "asked": cell.asked,
            "pictures": {name: [picture.label, picture.digest] for name, picture in cell.pictures.items()},
            "metrics": values,
            "by": self._by,
            "notes": list(made.notes),
        }

    def _shown(self, cell: Cell, picture: Any) -> Shown:
        reference = cell.pictures.get("reference")
        image = opened(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
        return Shown(image, reference and self._image(reference), cell.asked["prompt"])

    def _complete(self, cell: Cell, line: dict[str, Any]) -> dict[str, Any]:
        """With what an earlier run did not measure, and where this sweep has it."""
        old = {name for name, by in self._by.items() if line.get("by", {}).get(name) != by}
        lack = [m for m in self.metrics if m.name != DIVERSITY and (m.name in old or m.name not in line["metrics"])]
        values = {name: value for name, value in line["metrics"].items() if name != DIVERSITY}
        if lack:
            values |= measured(lack, self._shown(cell, self.folder.picture(cell.key)))
        names = [metric.name for metric in self.metrics]
        ordered = {name: values[name] for name in sorted(values, key=lambda n: names.index(n) if n in names else 99)}
        return {**line, "place": cell.place, "metrics": ordered, "by": {**line.get("by", {}), **self._by}}

    def _spread(self, lines: list[dict[str, Any]]) -> None:
        """Measure what is about several seeds: each of their cells has the same value."""
        several = next((metric for metric in self.metrics if metric.name == DIVERSITY), None)
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for line in lines:
            groups.setdefault(tuple((k, v) for k, v in line["place"].items() if k != "seed"), []).append(line)
        for group in groups.values():
            if several is not None and len(group) > 1:
                value = several.function([Shown(opened(self.folder.picture(line["key"]))) for line in group])
                for line in group:
                    line["metrics"][DIVERSITY] = round(value, 6)


def _read(picture: Picture) -> bytes:
    """A picture's file, as it was when the sweep began."""
    try:
        data = read_regular(picture.path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ZvlError(f"{plain(picture.path, 160)} can't be read any more ({reason(error)}).") from error
    if open_reference(data).digest != picture.digest:
        raise ZvlError(f"{plain(picture.path, 160)} has changed since the sweep began. Run it again.")
    return data


def seconds_each(run: Run, left: list[int], target: Target) -> tuple[float, int]:
    """How long a cell takes, by a trial: the first one, which loads what is needed, is not counted. Its pictures stay.

    Returns:
        Seconds for each cell with all hands at work, and how many cells were made.
    """
    run.make(left[:1], target)
    trial = left[1 : 1 + 2 * target.hands]
    began = time.monotonic()
    run.make(trial, target)
    return (time.monotonic() - began) / max(len(trial), 1), 1 + len(trial)


def thumbnail(file: str, side: int) -> bytes:
    """A picture no larger than a square, as JPEG."""
    data = io.BytesIO()
    image = opened(file)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    image.save(data, "JPEG", quality=80)
    return data.getvalue()
