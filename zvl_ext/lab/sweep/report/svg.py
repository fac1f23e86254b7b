"""Curves and points with their intervals, as SVG that stands in a page, or as a file of its own."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ....intervals import Interval

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A6F00", "#555555")
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 26, 12, 40
_TILT = 35  # degrees, of names that lie askew
_TICKS = 5
_LETTER = 5.6  # pixels of a letter, on the average
_GAP, _LINE = 12, 17  # between charts, and of a line of the key
# As page.css has it for the charts in a page, for a file that is seen on any ground.
_STYLE = (
    "text{font:10px system-ui,sans-serif;fill:#222}.t{font-size:12px;font-weight:600;text-anchor:middle}"
    ".m{text-anchor:middle}.e{text-anchor:end}.n{stroke:none}.g{stroke:#8883}"
)


@dataclass(frozen=True)
class Point:
    """A point with its interval upward, and sideways where `across` is one.

    Attributes:
        x: Its place along, in the axis' unit.
        y: The mean and the ends of its interval.
        title: What is shown where the pointer is on it.
        text: What is written beside it.
    """

    x: float
    y: Interval
    across: Interval | None = None
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined by a line or not.

    Attributes:
        dashes: Of the line, as `stroke-dasharray`; "" for a whole one.
        marked: Whether the points are seen themselves, with their intervals.
    """

    points: Sequence[Point]
    name: str = ""
    joined: bool = True
    colour: str = ""
    dashes: str = ""
    marked: bool = True


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        names: What stands along the x axis at 0, 1, 2, ..., where its values are no numbers.
        tilted: Whether these names lie askew, each in full.
        along, up: The ends of the axes; None: as the points need it.
    """

    title: str
    series: Sequence[Series]
    x: str = ""
    y: str = ""
    names: Sequence[str] = field(default_factory=tuple)
    width: int = 330
    height: int = 230
    tilted: bool = False
    along: tuple[float, float] | None = None
    up: tuple[float, float] | None = None

    def svg(self) -> str:
        points = [point for series in self.series for point in series.points]
        along = [v for p in points for v in (p.across or (p.x,))]
        x0, x1 = (-0.5, len(self.names) - 0.5) if self.names else self.along or _room(along)
        y0, y1 = self.up or _room([value for point in points for value in point.y])
        tilt = math.sin(math.radians(_TILT)) * _LETTER * max(map(len, self.names), default=0) if self.tilted else 0
        bottom = self.height - _BOTTOM - tilt

        def at(x: float, y: float) -> tuple[float, float]:
            return (
                _LEFT + (x - x0) / (x1 - x0) * (self.width - _LEFT - _RIGHT),
                bottom - (y - y0) / (y1 - y0) * (bottom - _TOP),
            )

        parts = [
            f'<svg viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}" role="img" '
            f'aria-label="{_text(self.title)}">',
            f'<text x="{self.width / 2}" y="15" class="t">{_text(self.title)}</text>',
        ]
        for value in _ticks(y0, y1):
            _, y = at(x0, value)
            parts.append(f'<path class="g" d="M{_LEFT} {y:.1f}H{self.width - _RIGHT}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" class="e">{value:g}</text>')
        for value, name in self._along(x0, x1):
            x, _ = at(value, y0)
            turned = f' transform="rotate({-_TILT} {x:.1f} {bottom + 12:.1f})"' if self.tilted else ""
            parts.append(
                f'<text x="{x:.1f}" y="{bottom + 14:.1f}" class="{"e" if turned else "m"}"{turned}>{_text(name)}</text>'
            )
        parts.append(f'<text x="{(self.width + _LEFT) / 2}" y="{self.height - 8}" class="m">{_text(self.x)}</text>')
        if self.y:
            middle = (bottom + _TOP) / 2
            parts.append(f'<text class="m" transform="translate(12 {middle:.0f}) rotate(-90)">{_text(self.y)}</text>')
        taken: list[tuple[float, float, float]] = []
        for number, series in enumerate(self.series):
            colour = series.colour or COLOURS[number % len(COLOURS)]
            parts.append(f'<g stroke="{colour}" fill="{colour}">')
            parts += _drawn(series, at, self.width, taken)
            parts.append("</g>")
        return "".join([*parts, "</svg>"])

    def _along(self, x0: float, x1: float) -> list[tuple[float, str]]:
        if not self.names:
            return [(value, f"{value:g}") for value in _ticks(x0, x1)]
        room = 999 if self.tilted else max(3, int((self.width - _LEFT) / max(len(self.names), 1) / _LETTER))
        return [(i, name if len(name) <= room else name[: room - 1] + "…") for i, name in enumerate(self.names)]


def _drawn(series: Series, at: Any, width: float, taken: list[tuple[float, float, float]]) -> list[str]:
    """A series' elements.

    Args:
        at: Where a value lies, in pixels.
        width: The chart's.
        taken: Where texts stand, as `_free` has it.
    """
    parts: list[str] = []
    places = [at(point.x, point.y[0]) for point in series.points]
    if series.joined and len(places) > 1:
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        dashes = f' stroke-dasharray="{series.dashes}"' if series.dashes else ""
        parts.append(f'<path fill="none" stroke-width="1.6"{dashes} d="M{way}"/>')
    if not series.marked:
        return parts
    for point, (x, y) in zip(series.points, places):
        low, high = (at(point.x, end)[1] for end in point.y[1:])
        way = f"M{x:.1f} {low:.1f}V{high:.1f}"
        if point.across is not None:
            left, right = (at(end, point.y[0])[0] for end in point.across[1:])
            way += f"M{left:.1f} {y:.1f}H{right:.1f}"
        parts.append(f'<path stroke-opacity=".45" d="{way}"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{_text(point.title)}</title></circle>')
        if point.text:
            before = x + 6 + _LETTER * len(point.text) > width
            start = x - 6 - _LETTER * len(point.text) if before else x + 6
            line = _free(taken, start, y, point.text)
            kind, place = ("n e", x - 6) if before else ("n", x + 6)
            parts.append(f'<text class="{kind}" x="{place:.1f}" y="{line:.1f}">{_text(point.text)}</text>')
    return parts


def _free(taken: list[tuple[float, float, float]], x: float, y: float, text: str) -> float:
    """The line beside a point where its text stands on no other one's; the last of the lines that are tried, if none is
    free.

    Args:
        taken: Where the others stand: from left to right, and the line. This one is added.
    """
    end, line = x + _LETTER * len(text), y
    for line in (y - 5, y + 13, y - 16, y + 24):
        if all(abs(line - other) > 9 or end < left or right < x for left, right, other in taken):
            break
    taken.append((x, end, line))
    return line


def figure(rows: Sequence[Sequence[Chart]]) -> str:
    """Charts beside and below each other as a file of its own, with a key of the series that have names."""
    width = max(sum(chart.width + _GAP for chart in charts) for charts in rows)
    parts, top = [], 0
    for charts in rows:
        left = 0
        for chart in charts:
            parts.append(f'<g transform="translate({left} {top})">{chart.svg()}</g>')
            left += chart.width + _GAP
        top += max(chart.height for chart in charts) + _GAP
    named = {}
    for chart in (chart for charts in rows for chart in charts):
        for number, series in enumerate(chart.series):
            if series.name:
                named.setdefault(series.name, (series.colour or COLOURS[number % len(COLOURS)], series))
    left = _LEFT
    for name, (colour, series) in named.items():
        room = 34 + _LETTER * len(name)
        if left > _LEFT and left + room > width:
            left, top = _LEFT, top + _LINE
        parts.append(f'<g transform="translate({left:.0f} {top})">{_key(name, colour, series)}</g>')
        left += room
    height = top + _LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _key(name: str, colour: str, series: Series) -> str:
    dashes = f' stroke-dasharray="{series.dashes}"' if series.dashes else ""
    line = f'<path stroke="{colour}" stroke-width="1.6"{dashes} d="M0 6H20"/>' if series.joined else ""
    return f'{line}<circle cx="10" cy="6" r="3" fill="{colour}"/><text x="25" y="10">{_text(name)}</text>'


def _room(values: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis, a little wider than what is on it."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = (high - low) * 0.06 or abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two ends."""
    raw = (high - low) / _TICKS
    unit = 10 ** math.floor(math.log10(raw))
    step = unit * next(times for times in (1, 2, 2.5, 5, 10) if unit * times >= raw)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


def _text(text: str) -> str:
    return html.escape(str(text))
