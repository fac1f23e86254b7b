"""From measurements to numbers: a measure for each pair, its interval, and entries found by what they measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...intervals import Interval, bootstrap
from ..miniature.world import JUDGED
from .rows import Row

SHOWN = 0.5  # a picture shows a value when the classifier finds it at least this probable


@dataclass(frozen=True)
class Entry:
    """A row with what was measured of it."""

    row: Row
    values: dict[str, Any]

    def _bits(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8).reshape(self.row.pairs, self.row.seeds).mean(1) - ord("0")

    def _share(self, whose: str, attributes: dict[str, np.ndarray]) -> np.ndarray:
        """The mean over each pair's attributes, weighed by masks [pairs]."""
        total = sum(self._bits(self.values[whose][name]) * mask for name, mask in attributes.items())
        return total / sum(attributes.values())

    def _said(self, said: bool) -> dict[str, np.ndarray]:
        """Masks of the attributes that the prompt speaks of, or is silent about; all four where it is complete."""
        spoken = [self.row.said(pair) for pair in self.row.drawn()]
        if all(each == frozenset(JUDGED) for each in spoken):
            return {name: np.ones(self.row.pairs) for name in JUDGED}
        return {name: np.array([float((name in each) == said) for each in spoken]) for name in JUDGED}

    def metric(self, name: str) -> np.ndarray:
        """One number for each pair.

        Args:
            name: `adherence`: share of the prompt's attributes that the picture shows. `similarity`: share of the
                reference's (where the prompt is half-specified: of those it leaves open). `lost`: share of the prompt's
                attributes that are the reference's instead. `neither`: share of the four that are neither's. `prompt
                X`, `reference X`: of attribute X alone. `unlike`, `cosine`, `distance`, `moved`, `diversity` and those
                of exchanged references: as measured.
        """
        whose, _, attribute = name.partition(" ")
        if attribute:
            return self._bits(self.values[whose][attribute])
        if name == "adherence":
            return self._share("prompt", self._said(True))
        if name == "similarity":
            return self._share("reference", self._said(False))
        if name == "lost":
            return self._share("reference", self._said(True))
        if name == "neither":
            every = {name: np.ones(self.row.pairs) for name in JUDGED}
            return 1 - self._share("prompt", every) - self._share("reference", every)
        if isinstance(self.values[name], str):
            return self._bits(self.values[name])
        if name == "diversity":
            return np.array(self.values["diversity"])
        return np.array(self.values[name]).reshape(self.row.pairs, self.row.seeds).mean(1)

    def interval(self, name: str) -> Interval:
        return bootstrap(self.metric(name))

    def summary(self) -> dict[str, Any]:
        names = ["adherence", "similarity", "neither", "unlike", "cosine", "distance"]
        names += [f"{whose} {name}" for whose in ("prompt", "reference") for name in JUDGED]
        names += [name for name in ("moved", "diversity") if name in self.values]
        return {
            "n": self.row.pictures,
            **{name: [round(v, 4) for v in self.interval(name)] for name in names},
            "frechet": self.values["frechet"],
        }


def difference(a: Entry, b: Entry, name: str) -> Interval:
    """a - b, pair by pair over the pairs that both have."""
    if a.row.first != b.row.first:
        raise ValueError(f"{a.row.name} and {b.row.name} are of other pairs")
    count = min(a.row.pairs, b.row.pairs)
    return bootstrap(a.metric(name)[:count] - b.metric(name)[:count])


class Missing(Exception):  # noqa: N818 - not an error: the run was a partial one
    """A verdict's row was not measured."""


class Table:
    """All entries, to be asked for by what they measured."""

    def __init__(self, entries: list[Entry]):
        self.entries = entries
        self.by_key = {entry.row.key: entry for entry in entries}

    def part(self, part: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.row.part == part]

    def named(self, part: str, name: str, alpha: float | None = None) -> Entry:
        for entry in self.part(part):
            if entry.row.name == name and (alpha is None or abs(entry.row.alpha - alpha) < 1e-9):
                return entry
        raise Missing(f"{part}: {name}, {alpha}")

    def curve(self, name: str) -> list[Entry]:
        """A setting's entries from alpha 0, which is the prompt alone, upward."""
        points = [entry for entry in self.part("main") if entry.row.name == name]
        if not points:
            raise Missing(name)
        return [self.named("baselines", "prompt alone"), *sorted(points, key=lambda entry: entry.row.alpha)]

    def by_weight(self, name: str) -> list[tuple[float, Entry]]:
        """A curve over weight: weights with their entries, upward."""
        (by_value,) = self.varied("weight", name).values()
        points = [(float(entry.row.values["weight"]), entry) for entry in by_value.values()]
        return sorted(points, key=lambda point: point[0])

    def varied(self, part: str, base: str) -> dict[float, dict[str, Entry]]:
        """A part that varies one factor: entries by alpha and value."""
        found: dict[float, dict[str, Entry]] = {}
        for entry in self.part(part):
            title, _, value = entry.row.name.rpartition(": ")
            if title == base:
                found.setdefault(entry.row.alpha, {})[value] = entry
        if not found:
            raise Missing(f"{part}: {base}")
        return dict(sorted(found.items()))

    @property
    def statistics(self) -> dict[str, Any]:
        return self.named("statistics", "hidden states").values


def caption_accuracy(table: Table) -> dict[str, Interval]:
    """How often Qwen3-VL's captions name each attribute of the reference rightly."""
    bits = table.named("captions", "Qwen3-VL's captions of the references").values["right"]
    return {name: bootstrap(np.array([float(bit) for bit in text])) for name, text in bits.items()}


def with_interval(interval: Interval | list[float]) -> str:
    """A mean with its interval, as the tables show it."""
    return f"{interval[0]:.2f} [{interval[1]:.2f}, {interval[2]:.2f}]"
