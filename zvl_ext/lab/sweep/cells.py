"""The cells of a sweep: which pictures are to be made, each named by all that makes it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ... import __version__
from ...declaration import FILES, LEARNED
from ...errors import ZvlError
from ...options import BY_NAME, OPTIONS, Settings
from ..digests import files_digest
from .axes import ASKED, Axis, known

_PICTURES = ("image", "mask")


@dataclass(frozen=True)
class Picture:
    """A file that is a picture, or another that decides how pictures look.

    Attributes:
        label: What to call it.
        digest: Of its pixels; of another file its content's.
    """

    path: str
    label: str
    digest: str


@dataclass(frozen=True)
class Cell:
    """One picture that is to be made.

    Attributes:
        number: Its place in the whole grid.
        place: The axes' values, as they are shown.
        settings: The options that differ from their defaults, but for pictures, by name.
        asked: What is asked besides, by the names of ASKED.
        pictures: Pictures by the options' names.
        key: Of all that makes it.
    """

    number: int
    place: dict[str, Any]
    settings: dict[str, Any]
    asked: dict[str, Any]
    pictures: dict[str, Picture]
    key: str


@dataclass(frozen=True)
class Sweep:
    """All cells, made as they are asked for: a grid may have millions.

    Attributes:
        axes: In any order; cells go through the dearest one slowest.
        fixed: Values of options in every cell.
        asked: What is asked in every cell, by the names of ASKED.
        pictures: What is known of the files on the axes and in `fixed`, by path.
        identity: What makes the pictures: weights, or a web UI's checkpoint.
        sample: How many cells of the grid, drawn at random; None: all.
    """

    axes: tuple[Axis, ...]
    fixed: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    identity: str = ""
    sample: int | None = None
    sample_seed: int = 0

    def __post_init__(self) -> None:
        twice = [name for name, count in Counter(axis.name for axis in self.axes).items() if count > 1]
        fixed = [axis.name for axis in self.axes if axis.name in self.fixed]
        if twice or fixed:
            raise ZvlError(f"{(twice or fixed)[0]} is given twice. Give it once, as an axis or as a value.")
        if self.sample is not None and self.sample > self.whole:
            raise ZvlError(f"A sample of {self.sample:,} was asked for, and there are {self.whole:,} cells in all.")

    @cached_property
    def ordered(self) -> tuple[Axis, ...]:
        """The axes from the outermost loop to the innermost."""
        return tuple(sorted(self.axes, key=lambda axis: -axis.cost))

    @property
    def whole(self) -> int:
        """Cells of the whole grid."""
        return math.prod(len(axis.values) for axis in self.axes)

    def __len__(self) -> int:
        return self.whole if self.sample is None else self.sample

    @cached_property
    def numbers(self) -> range | list[int]:
        """The cells' places in the whole grid."""
        if self.sample is None:
            return range(self.whole)
        return sorted(random.Random(self.sample_seed).sample(range(self.whole), self.sample))  # noqa: S311

    def __iter__(self) -> Iterator[Cell]:
        """All cells, those that are the same picture once."""
        seen = set()
        for number in self.numbers:
            cell = self.cell(number)
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell

    def cell(self, number: int) -> Cell:
        """The cell at a place in the whole grid.

        Raises:
            ZvlError: its values do not go together.
        """
        values, left = {}, number
        for axis in reversed(self.ordered):
            left, place = divmod(left, len(axis.values))
            values[axis.name] = axis.values[place]
        chosen = {axis.name: values[axis.name] for axis in self.axes}
        named = {**self.fixed, **{name: value for name, value in chosen.items() if name in BY_NAME}}
        asked = {**self.asked, **{name: value for name, value in chosen.items() if name in ASKED}}
        pictures = {name: self.pictures[named.pop(name)] for name in list(named) if BY_NAME[name].kind in _PICTURES}
        settings = _changed(named) if pictures or any(BY_NAME[name].kind in FILES for name in named) else {}
        place = {name: pictures[name].label if name in pictures else value for name, value in chosen.items()}
        files = {name: self.pictures[value] for name, value in named.items() if value in self.pictures}
        return Cell(number, place, settings, asked, pictures, self._key(settings, asked, {**pictures, **files}))

    def _key(self, settings: dict[str, Any], asked: dict[str, Any], files: dict[str, Picture]) -> str:
        digests = {name: file.digest for name, file in files.items()}
        every = [__version__, self.identity, settings, asked, digests]
        return hashlib.sha256(json.dumps(every, sort_keys=True).encode()).hexdigest()[:24]


_DEFAULTS = {option.name: option.default for option in OPTIONS}


def _changed(named: dict[str, Any]) -> dict[str, Any]:
    """Options that differ from their defaults, with what a preset among them sets. The preset's name says no more."""
    settings = Settings.from_mapping({"enabled": True, **named})
    values = {name: getattr(settings, name) for name in _DEFAULTS if name != "preset"}
    return {name: value for name, value in values.items() if value != _DEFAULTS[name]}


def opened(axes: tuple[Axis, ...] | list[Axis], fixed: dict[str, Any]) -> dict[str, Picture]:
    """The pictures and files of learned numbers that axes and fixed values name, each read once. What is no file here
    is a web UI's.

    Raises:
        ZvlError: a picture can't be read.
    """
    from ...reference import open_file

    values = [(axis.name, value) for axis in axes for value in axis.values] + list(fixed.items())
    paths = dict.fromkeys(value for name, value in values if known(name).kind in _PICTURES)
    names = Counter(os.path.basename(path) for path in paths)
    found = {}
    for path in paths:
        name = os.path.basename(path)
        found[path] = Picture(path, name if names[name] == 1 else path, open_file(path).digest)
    for name, value in values:
        if known(name).kind in LEARNED and value and os.path.isfile(value):
            found[value] = Picture(value, os.path.basename(value), files_digest(value))
    return found
