"""The evidence as figures: curves and points with their intervals, as a sweep's report draws them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from ...output import written
from ..miniature.world import JUDGED
from ..sweep.report.svg import COLOURS, Chart, Point, Series, figure
from .experiments import BLOCKS, CURVES, ROLES, WEIGHT_CURVES, WINDOWS
from .rows import NAMED
from .table import Entry, Missing, Table

_DASHED, _DOTTED = "6 3", "2 3"
_SHARE = (-0.03, 1.03)  # the ends of an axis of shares
_ADHERENCE, _SIMILARITY = "prompt adherence", "reference similarity"
_BASELINES = {
    "caption": ("caption of the reference", "#444444"),
    "img2img": ("img2img", "#888888"),
    "adapter": ("trained adapter", "#882255"),
}
_STYLES = {
    name: {"name": name, "colour": colour, "dashes": _DASHED if name.startswith("splice") else ""}
    for name, colour in zip(CURVES, COLOURS)
}
Charts = list[list[Chart]]  # row by row


def draw(table: Table, out: str) -> list[str]:
    """Write the figures that the table has rows for.

    Returns:
        Their file names.

    Raises:
        ZvlError: they can't be written.
    """
    drawn = []
    for name, make in _FIGURES.items():
        if charts := make(table):
            with written(os.path.join(out, name)) as path, open(path, "w", encoding="utf-8") as file:
                file.write(figure(charts))
            drawn.append(name)
    return drawn


def _traded(points: Iterable[tuple[str, Entry]]) -> list[Point]:
    """Entries as points of similarity and adherence, each with what stands beside it."""
    made = []
    for text, entry in points:
        similar, follows = entry.interval("similarity"), entry.interval("adherence")
        says = f"{entry.row.name}: {similar[0]:.2f}, {follows[0]:.2f}"
        made.append(Point(similar[0], follows, similar, says, text))
    return made


def _over(points: Iterable[tuple[float, Entry]], measure: str) -> list[Point]:
    """Entries as points of a measure over a number."""
    return [Point(x, found, title=f"{x:g}: {found[0]:.2f}") for x, e in points for found in (e.interval(measure),)]


def _compared(table: Table) -> list[Series]:
    """The baselines as points of similarity and adherence, and where both sum to 1."""
    found = []
    for how, (name, colour) in _BASELINES.items():
        entries = sorted((e for e in table.part("baselines") if e.row.how == how), key=lambda e: e.row.alpha)
        short = [str(e.row.values["written"]) if how == "caption" else f"{_number(e):g}" for e in entries]
        found.append(Series(_traded(zip(short, entries)), name, joined=False, colour=colour))
    ends = [Point(x, (1 - x, 1 - x, 1 - x)) for x in (0.0, 1.0)]
    line = Series(ends, colour="#bbbbbb", dashes=_DOTTED, marked=False)
    return [*(series for series in found if series.points), line]


def _number(entry: Entry) -> float:
    """What a baseline is called by: img2img's strength, the adapter's scale."""
    return float(entry.row.values.get("strength", entry.row.alpha))


def _weight(table: Table) -> Charts:
    """The trade-off over weight beside the baselines, and both measures over weight."""
    trade, over = [], []
    for number, (name, colour) in enumerate(zip(WEIGHT_CURVES, COLOURS)):
        with contextlib.suppress(Missing):
            points = [(w, entry) for w, entry in table.by_weight(name) if w >= 0.01]
            texts = (f"{w:g}" if number == 0 else "" for w, _ in points)
            trade.append(Series(_traded(zip(texts, (e for _, e in points))), name, colour=colour))
            over.append(Series(_over(points, "similarity"), name, colour=colour))
            over.append(Series(_over(points, "adherence"), colour=colour, dashes=_DOTTED))
    if not over:
        return []
    size = {"width": 540, "height": 420, "up": _SHARE}
    title = "Prompt against reference: each curve runs over weight"
    return [[
        Chart(title, [*trade, *_compared(table)], _SIMILARITY, _ADHERENCE, along=_SHARE, **size),
        Chart("Similarity (lines) and adherence (dotted) over weight", over, "weight", **size),
    ]]  # fmt: skip


def _by_attribute(title: str, rows: list[tuple[str, Entry]], width: int) -> Chart:
    """The reference's values in the pictures, by attribute."""
    series = []
    for k, (name, colour) in enumerate(zip(JUDGED, COLOURS)):
        points = []
        for place, (value, entry) in enumerate(rows):
            found = entry.interval(f"reference {name}")
            points.append(Point(place + 0.17 * (k - 1.5), found, title=f"{value}: {name} {found[0]:.2f}"))
        series.append(Series(points, name, joined=False, colour=colour))
    return Chart(title, series, names=[value for value, _ in rows], tilted=True, width=width, height=330, up=_SHARE)


def _blocks(table: Table) -> Charts:
    """Which of the reference's attributes blocks and steps take over."""
    named = ["all", "early", "middle", "late", *map(str, range(BLOCKS))]
    charts = []
    for part, values in {"blocks": named, "steps": [f"{a:g} to {b:g}" for a, b in WINDOWS]}.items():
        with contextlib.suppress(Missing):
            (by_value,) = table.varied(part, "splice, sequential").values()
            rows = [(value, by_value[value]) for value in values if value in by_value]
            charts.append(_by_attribute(f"The reference's values that {part} take over, weight 1", rows, 540))
    return [charts] if charts else []


def _roles(table: Table) -> Charts:
    """Which of the reference's attributes settings take over, where the prompt names some of them."""
    charts = []
    for names in NAMED:
        with contextlib.suppress(Missing):
            rows = table.varied("roles", f"prompt names the {names}")
            by_value = {value: entry for entries in rows.values() for value, entry in entries.items()}
            kept = [(value, by_value[value]) for value in ("prompt alone", *ROLES) if value in by_value]
            title = f"The reference's values in the pictures, where the prompt names the {names}"
            charts.append([_by_attribute(title, kept, 1092)])
    return charts


def _curves(table: Table) -> dict[str, list[Entry]]:
    found = {}
    for name in CURVES:
        with contextlib.suppress(Missing):
            found[name] = table.curve(name)
    return found


def _trade_off(table: Table) -> Charts:
    curves = [
        Series(_traded(("", entry) for entry in curve), **_STYLES[name]) for name, curve in _curves(table).items()
    ]
    title = "Prompt against reference: each curve runs over alpha, from the prompt alone"
    size = {"width": 760, "height": 500, "along": _SHARE, "up": _SHARE}
    return [[Chart(title, [*curves, *_compared(table)], _SIMILARITY, _ADHERENCE, **size)]] if curves else []


def _alpha(table: Table) -> Charts:
    titles = {"adherence": _ADHERENCE, "similarity": _SIMILARITY, "distance": "distance to real pictures"}
    curves = {name: [(entry.row.alpha, entry) for entry in curve] for name, curve in _curves(table).items()}
    charts = [
        Chart(title, [Series(_over(points, measure), **_STYLES[name]) for name, points in curves.items()], "alpha",
              width=360, height=330, up=None if measure == "distance" else _SHARE)
        for measure, title in titles.items()
    ]  # fmt: skip
    return [charts] if curves else []


def _layers(table: Table) -> Charts:
    charts = []
    for base in ("blend text", "blend image", "splice all + insert"):
        with contextlib.suppress(Missing):
            by_alpha, series = table.varied("layer", base), []
            styles = (_DOTTED, "") if len(by_alpha) > 1 else ("",)
            for entries, dashes in zip(by_alpha.values(), styles):
                points = sorted((float(layer), entry) for layer, entry in entries.items())
                for measure, colour in (("adherence", COLOURS[0]), ("similarity", COLOURS[1]), ("neither", "#777777")):
                    name = "" if dashes else measure
                    series.append(Series(_over(points, measure), name, colour=colour, dashes=dashes))
            which = " and ".join(f"{a:g}{' (dotted)' if d else ''}" for a, d in zip(by_alpha, styles))
            charts.append(Chart(f"{base}, alpha {which}", series, "hidden layer (-1: after the last)",
                                width=360, height=330, up=_SHARE))  # fmt: skip
    return [charts] if charts else []


_FIGURES = {
    "weight.svg": _weight,
    "blocks.svg": _blocks,
    "roles.svg": _roles,
    "trade_off.svg": _trade_off,
    "alpha.svg": _alpha,
    "layers.svg": _layers,
}
