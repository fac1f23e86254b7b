"""From measured cells to settings: means with intervals, the frontier, and the best by stated rules. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ....intervals import Interval, bootstrap
from ....measures import ADHERENCE, ARTIFACT, SIMILARITY, Metric
from ..axes import known

Line = dict[str, Any]
Setting = tuple[tuple[str, Any], ...]  # values of the axes that are settings, by name

_OVER = ("prompt", "seed")  # axes that a setting's value is a mean over, besides those of pictures
_KEPT, _HALF = 0.9, 0.5  # of the rules below


def is_setting(axis: Any) -> bool:
    """Whether an axis is about how pictures are made, not about which."""
    return axis.name not in _OVER and axis.option.kind not in ("image", "mask")


@dataclass(frozen=True)
class Results:
    """The lines of a sweep's cells.

    Attributes:
        settings: Names of the axes that are settings.
        metrics: What was measured.
    """

    lines: list[Line]
    settings: list[str]
    metrics: list[Metric]

    @cached_property
    def by_setting(self) -> dict[Setting, list[Line]]:
        return grouped(self.lines, self.settings)

    def interval(self, lines: Iterable[Line], metric: str) -> Interval | None:
        """The mean over pairs of a prompt and a reference, with its interval; seeds are averaged within a pair."""
        pairs: dict[tuple, list[float]] = {}
        for line in lines:
            if metric in line["metrics"]:
                pair = tuple((k, v) for k, v in line["place"].items() if k not in self.settings and k != "seed")
                pairs.setdefault(pair, []).append(line["metrics"][metric])
        return bootstrap(np.array([np.mean(values) for values in pairs.values()])) if pairs else None

    @cached_property
    def means(self) -> dict[Setting, dict[str, Interval]]:
        """Of each setting every metric's interval."""
        every = {
            setting: {metric.name: self.interval(lines, metric.name) for metric in self.metrics}
            for setting, lines in self.by_setting.items()
        }
        return {setting: {k: v for k, v in found.items() if v is not None} for setting, found in every.items()}

    def of_role(self, role: str) -> Metric | None:
        """The metric of a role: the first that was measured."""
        there = {name for found in self.means.values() for name in found}
        return next((metric for metric in self.metrics if metric.role == role and metric.name in there), None)

    @cached_property
    def sides(self) -> tuple[Metric, Metric] | None:
        """What measures the prompt's side and the reference's; None where one of them was not measured."""
        found = self.of_role(ADHERENCE), self.of_role(SIMILARITY)
        return found if all(found) else None

    @cached_property
    def frontier(self) -> list[Setting]:
        """The settings than which none is better at both sides, from the prompt's end to the reference's."""
        if self.sides is None:
            return []
        points = {
            setting: tuple(found[side.name][0] for side in self.sides)
            for setting, found in self.means.items()
            if all(side.name in found for side in self.sides)
        }
        order = sorted(points, key=lambda setting: points[setting], reverse=True)
        best, front = -np.inf, []
        for setting in order:
            if points[setting][1] > best:
                best = points[setting][1]
                front.append(setting)
        return front

    @cached_property
    def best(self) -> list[tuple[str, Setting | None]]:
        """Rules, and which setting each chooses."""
        return [(rule.text(self), rule.choose(self)) for rule in RULES if rule.applies(self)]

    def value(self, setting: Setting, metric: Metric) -> float | None:
        found = self.means[setting].get(metric.name)
        return None if found is None else found[0]


def grouped(lines: Iterable[Line], names: Iterable[str]) -> dict[Setting, list[Line]]:
    """Lines by their values of some axes."""
    names, found = list(names), {}
    for line in lines:
        found.setdefault(tuple((name, line["place"][name]) for name in names), []).append(line)
    return found


@dataclass(frozen=True)
class Rule:
    """How a best setting is chosen.

    Attributes:
        applies: Whether what it needs was measured.
        text: What it is, in words.
        choose: The setting; None where none fits.
    """

    applies: Callable[[Results], bool]
    text: Callable[[Results], str]
    choose: Callable[[Results], Setting | None]


def _most(results: Results, key: Callable[[Setting], float | None]) -> Setting | None:
    found = {setting: value for setting in results.means if (value := key(setting)) is not None}
    return max(found, key=lambda setting: found[setting]) if found else None


def _both(results: Results) -> bool:
    return results.sides is not None


def _within(results: Results, kept: int, share: float) -> Setting | None:
    """The best at one side among those that have a share of the best at the other, `kept`."""
    side, other = results.sides[kept], results.sides[1 - kept]
    values = [v for s in results.means if (v := results.value(s, side)) is not None]
    floor = share * max(values)
    return _most(results, lambda s: results.value(s, other) if (results.value(s, side) or -np.inf) >= floor else None)


def _balance(results: Results, setting: Setting) -> float | None:
    a, b = (results.value(setting, side) for side in results.sides)
    return None if a is None or b is None else (2 * a * b / (a + b) if a > 0 and b > 0 else 0.0)


def _cleanest(results: Results) -> Setting | None:
    """The least of artifacts among settings as similar as half the best."""
    artifact, side = results.of_role(ARTIFACT), results.of_role(SIMILARITY)
    values = [v for s in results.means if (v := results.value(s, side)) is not None]
    floor = _HALF * max(values)

    def key(setting: Setting) -> float | None:
        value = results.value(setting, artifact)
        return None if value is None or (results.value(setting, side) or -np.inf) < floor else -value

    return _most(results, key)


RULES = (
    Rule(
        _both,
        lambda r: f"Most {_lower(r.sides[1])} among the settings that keep {_KEPT:.0%} of the best "
        f"{_lower(r.sides[0])}",
        lambda r: _within(r, 0, _KEPT),
    ),
    Rule(
        _both,
        lambda r: f"Most {_lower(r.sides[0])} among the settings that reach {_HALF:.0%} of the best "
        f"{_lower(r.sides[1])}",
        lambda r: _within(r, 1, _HALF),
    ),
    Rule(
        _both,
        lambda r: f"Best balance: the highest harmonic mean of {_lower(r.sides[0])} and {_lower(r.sides[1])}",
        lambda r: _most(r, lambda s: _balance(r, s)),
    ),
    Rule(
        lambda r: bool(r.of_role(ARTIFACT) and r.of_role(SIMILARITY)),
        lambda r: f"Least {_lower(r.of_role(ARTIFACT))} among the settings that reach {_HALF:.0%} of the best "
        f"{_lower(r.of_role(SIMILARITY))}",
        _cleanest,
    ),
    Rule(
        lambda r: r.of_role(SIMILARITY) is not None,
        lambda r: f"Most {_lower(r.of_role(SIMILARITY))}",
        lambda r: _most(r, lambda s: r.value(s, r.of_role(SIMILARITY))),
    ),
)  # fmt: skip


def _lower(metric: Metric) -> str:
    label = metric.label
    return label if label.isupper() or ":" in label else label[0].lower() + label[1:]


def shown(value: Any) -> str:
    """An axis' value as people read it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def named(setting: Setting) -> str:
    """A setting in words."""
    return (
        ", ".join(f"{known(name).axis or known(name).label} {shown(value)}" for name, value in setting) or "all cells"
    )
