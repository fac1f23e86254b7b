"""The report as one HTML file: nothing in it is loaded from elsewhere but the full pictures, where they are opened."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from ....intervals import LEVEL, RESAMPLES
from ..axes import Axis
from . import plots
from .tables import Results, is_setting, named, shown

_HERE = os.path.dirname(os.path.abspath(__file__))
_SHOWN = 500  # settings in the table; the files have all
_THUMBS = 4000  # pictures that stand in the page; beyond, a picture is read from its file where it is looked at


def page(
    results: Results,
    axes: list[Axis],
    about: dict[str, Any],
    thumbnail: Callable[[str], bytes],
    given: Callable[[Axis, Any], bytes | None],
) -> str:
    """The report.

    Args:
        axes: In the order in which they were given.
        about: Title and lines about the sweep: `title`, `lead`, and `facts`, names with values.
        thumbnail: The small picture of a cell, by its key, as JPEG.
        given: The small picture that a value of an axis stands for; None where it is no picture.
    """
    css, script = (_file(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    title = _text(about["title"])
    sections = [
        f"<h1>{title}</h1><p>{_text(about['lead'])}</p>",
        _best(results),
        '<h2>Pictures</h2><div id="choices"></div><div class="wide"><table id="grid"></table></div>',
        _frontier(results),
        _curves(results, axes),
        _settings(results),
        _metrics(results),
        _notes(results),
        _facts(about["facts"]),
    ]
    keys = [line["key"] for line in results.lines]
    small = {key: _encoded(thumbnail(key)) for key in keys} if len(keys) <= _THUMBS else {}
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{title}</title><style>{css}</style></head><body>",
            *(section for section in sections if section),
            _data("cells", _cells(results, axes, given)),
            _data("thumbs", small),
            f"<script>{script}</script></body></html>",
            "",
        ]
    )


def _file(name: str) -> str:
    with open(os.path.join(_HERE, name), encoding="utf-8") as file:
        return file.read()


def _text(value: Any) -> str:
    return html.escape(str(value))


def _data(name: str, value: Any) -> str:
    """JSON within a page: no "<" in it, so that nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _cells(results: Results, axes: list[Axis], given: Callable[[Axis, Any], bytes | None]) -> dict[str, Any]:
    values = {axis.name: list(dict.fromkeys(line["place"][axis.name] for line in results.lines)) for axis in axes}
    for axis in axes:
        if axis.option.kind in ("number", "integer"):
            values[axis.name].sort()
    places = {name: {value: number for number, value in enumerate(of)} for name, of in values.items()}
    there = [m for m in results.metrics if any(m.name in line["metrics"] for line in results.lines)]
    return {
        "axes": [
            {
                "label": axis.label,
                "setting": int(is_setting(axis)),
                "values": [shown(value) for value in values[axis.name]],
                "pictures": [_encoded(given(axis, value)) for value in values[axis.name]],
            }
            for axis in axes
        ],
        "metrics": [{"label": metric.label} for metric in there],
        "cells": [
            {
                "key": line["key"],
                "at": [places[axis.name][line["place"][axis.name]] for axis in axes],
                "values": [line["metrics"].get(metric.name) for metric in there],
                "notes": line["notes"],
            }
            for line in results.lines
        ],
    }


def _encoded(picture: bytes | None) -> str | None:
    return None if picture is None else base64.b64encode(picture).decode()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], numbers: int = 0) -> str:
    """A table of texts, escaped here; the last `numbers` columns are numbers."""
    head, lines = list(head), []
    for name, row in [("th", head), *(("td", list(row)) for row in rows)]:
        first = len(row) - numbers
        lines.append(
            "<tr>"
            + "".join(f"<{name}{' class=n' if i >= first else ''}>{_text(v)}</{name}>" for i, v in enumerate(row))
        )
    return f"<table><thead>{lines[0]}</thead><tbody>{''.join(lines[1:])}</tbody></table>"


def _interval(found: Any) -> str:
    """A mean with its interval; a single pair has none."""
    if found is None:
        return "–"
    mean, low, high = found
    return f"{mean:.3g}" if low == high else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def _best(results: Results) -> str:
    if not results.settings or not results.best:
        return ""
    used = [metric for metric in results.metrics if metric.role and metric in _told(results)]
    rows = []
    for rule, setting in results.best:
        found = results.means[setting] if setting is not None else {}
        rows.append(
            [rule, "none" if setting is None else named(setting), *(_interval(found.get(m.name)) for m in used)]
        )
    return "<h2>The best settings, by rule</h2>" + _table(
        ["Rule", "Setting", *(m.label for m in used)], rows, len(used)
    )


def _frontier(results: Results) -> str:
    chart = plots.frontier(results)
    if chart is None:
        return (
            "<h2>Adherence against similarity</h2><p>What follows the prompt was not measured: name a CLIP or SigLIP "
            "folder with --encoder.</p>"
            if results.lines
            else ""
        )
    said = "Each point is a setting; those than which none is better at both are joined."
    return f"<h2>Adherence against similarity</h2><p>{said}</p>{chart.svg()}"


def _curves(results: Results, axes: list[Axis]) -> str:
    parts = []
    for title, charts, names in plots.curves(results, [axis for axis in axes if is_setting(axis)]):
        key = "".join(f'<span><i style="background:{colour}"></i>{_text(name)}</span>' for name, colour in names)
        parts.append(f"<h2>Over {_text(title)}</h2><p class=key>{key}</p>")
        parts.append(f'<div class="charts">{"".join(chart.svg() for chart in charts)}</div>')
    return "".join(parts)


def _told(results: Results) -> list[Any]:
    """The metrics that some setting has."""
    there = {name for found in results.means.values() for name in found}
    return [metric for metric in results.metrics if metric.name in there]


def _settings(results: Results) -> str:
    if not results.settings:
        return ""
    told, first = _told(results), results.sides and results.sides[1].name
    order = sorted(results.means, key=lambda s: -results.means[s][first][0] if first in results.means[s] else 0)
    rows = (
        [named(s), str(len(results.by_setting[s])), *(_interval(results.means[s].get(m.name)) for m in told)]
        for s in order[:_SHOWN]
    )
    more = f"<p>The first {_SHOWN} of {len(order):,}; the rest is in the files.</p>" if len(order) > _SHOWN else ""
    said = (
        f"Means over pairs of a prompt and a reference, with {LEVEL:.0%} bootstrap intervals ({RESAMPLES:,} times). "
        "Seeds are averaged within a pair."
    )
    table = _table(["Setting", "Cells", *(m.label for m in told)], rows, len(told) + 1)
    return f'<h2>All settings</h2><p>{said}</p>{more}<div class="wide">{table}</div>'


def _metrics(results: Results) -> str:
    words = {1: "more is better", -1: "less is better", 0: ""}
    return "<h2>What is measured</h2>" + _table(
        ["Measure", "What it is", ""], ([m.label, m.about, words[m.better]] for m in _told(results))
    )


def _notes(results: Results) -> str:
    counts = Counter(note for line in results.lines for note in line["notes"])
    if not counts:
        return ""
    rows = ([note, f"{count:,}"] for note, count in counts.most_common(30))
    return "<h2>What was said of the pictures</h2>" + _table(["Note", "Cells"], rows, 1)


def _facts(facts: dict[str, Any]) -> str:
    return "<h2>All that was set</h2>" + _table(["", ""], facts.items())
