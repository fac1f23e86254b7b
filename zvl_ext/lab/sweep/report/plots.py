"""Which curves a sweep's report has."""

from __future__ import annotations

from ....measures import Metric
from ..axes import Axis
from .svg import COLOURS, Chart, Point, Series
from .tables import Line, Results, grouped, named, shown

_LINES = 8  # curves in one chart
_NAMED = 30  # characters of a name in a chart
_WRITTEN = 12  # points of the frontier that have their names beside them


def curves(results: Results, axes: list[Axis]) -> list[tuple[str, list[Chart], list[tuple[str, str]]]]:
    """For each axis that is a setting: its title, a chart for each metric, and the curves' names with their colours.

    A chart's curves are the values of one other axis, the one with the most that a chart has room for; over all others
    they are means.
    """
    found = []
    varied = [axis for axis in axes if len(axis.values) > 1]
    for axis in varied:
        fits = [other for other in varied if other is not axis and len(other.values) <= _LINES]
        by = max(fits, key=lambda other: len(other.values), default=None)
        split = _split(results, by)
        charts = [
            chart for metric in results.metrics if (chart := _chart(results, axis, by, metric, split)) is not None
        ]
        names = [f"{by.label} {shown(value)}" for ((_, value),) in split] if by else []
        if charts:
            found.append((axis.label, charts, list(zip(names, COLOURS))))
    return found


def _split(results: Results, by: Axis | None) -> dict[tuple, list[Line]]:
    """The cells of each curve, in the order of the axis' values."""
    if by is None:
        return {(): results.lines}
    found = grouped(results.lines, [by.name])
    return {(place,): found[(place,)] for value in by.values if ((place := (by.name, value)),) in found}


def _chart(
    results: Results, axis: Axis, by: Axis | None, metric: Metric, split: dict[tuple, list[Line]]
) -> Chart | None:
    numeric = axis.option.kind in ("number", "integer")
    series = []
    for setting, lines in split.items():
        points = []
        by_value = grouped(lines, [axis.name])
        for place, value in enumerate(sorted(axis.values) if numeric else axis.values):
            interval = results.interval(by_value.get(((axis.name, value),), []), metric.name)
            if interval is not None:
                says = f"{axis.label} {shown(value)}{', ' + named(setting) if setting else ''}: {interval[0]:.3g}"
                points.append(Point(float(value) if numeric else place, interval, title=says))
        series.append(Series(points, joined=numeric))
    if not any(each.points for each in series):
        return None
    names = () if numeric else [_short(shown(value)) for value in axis.values]
    return Chart(metric.label, series, axis.label, names=names)


def frontier(results: Results) -> Chart | None:
    """Adherence against similarity, a point for each setting; those of the frontier are joined."""
    if results.sides is None:
        return None
    prompt, reference = results.sides
    front = results.frontier

    def point(setting: tuple, text: str = "") -> Point:
        found = results.means[setting]
        says = f"{named(setting)}: {found[reference.name][0]:.3g}, {found[prompt.name][0]:.3g}"
        return Point(found[reference.name][0], found[prompt.name], found[reference.name], says, text)

    both = [s for s, found in results.means.items() if prompt.name in found and reference.name in found]
    if not both:
        return None
    written = front if len(front) <= _WRITTEN else []
    others = Series([point(s) for s in both if s not in front], joined=False, colour="#8a8a8a")
    best = Series([point(s, _short(_values(s)) if s in written else "") for s in front], colour=COLOURS[0])
    title = f"{prompt.label} against {reference.label[0].lower()}{reference.label[1:]}"
    return Chart(title, [others, best], reference.label, prompt.label, width=760, height=430)


def _values(setting: tuple) -> str:
    return " / ".join(shown(value) for _, value in setting)


def _short(text: str) -> str:
    return text if len(text) <= _NAMED else text[: _NAMED - 1] + "…"
