"""What a sweep found, as files: a page to look at, and the cells as a table for other programs."""

from __future__ import annotations

import csv
import importlib.util
import os
from typing import Any

from .... import __version__
from ....measures import Metric
from ....output import written
from ..axes import Axis
from ..cells import Sweep
from .page import page
from .tables import Line, Results, is_setting, shown

PAGE, TABLE, PARQUET = "report.html", "cells.csv", "cells.parquet"
_THUMB = 128  # pixels
_LISTED = 60  # values of an axis


def write(out: str, sweep: Sweep, lines: list[Line], metrics: list[Metric], name: str, total: int) -> str:
    """Write the page, the CSV and, where pyarrow is there, the Parquet file.

    Args:
        name: What made the pictures.
        total: How many cells there are to be.

    Returns:
        The page's path.

    Raises:
        ZvlError: they can't be written.
    """
    from ..run import thumbnail

    results = Results(lines, [axis.name for axis in sweep.axes if is_setting(axis)], metrics)
    columns, rows = _flat(lines, list(sweep.axes), metrics)
    with written(os.path.join(out, TABLE)) as path, open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows([row[column] for column in columns] for row in rows)
    if importlib.util.find_spec("pyarrow") is not None:
        _parquet(os.path.join(out, PARQUET), columns, rows)

    def small(key: str) -> bytes:
        return thumbnail(os.path.join(out, "pictures", f"{key}.png"), _THUMB)

    def given(axis: Axis, value: Any) -> bytes | None:
        picture = next((p for p in sweep.pictures.values() if p.label == value), None)
        return thumbnail(picture.path, _THUMB // 2) if axis.option.kind in ("image", "mask") and picture else None

    made = page(results, list(sweep.axes), _about(sweep, lines, name, total), small, given)
    with written(os.path.join(out, PAGE)) as path, open(path, "w", encoding="utf-8", errors="replace") as file:
        file.write(made)
    return os.path.join(out, PAGE)


def _flat(lines: list[Line], axes: list[Axis], metrics: list[Metric]) -> tuple[list[str], list[dict[str, Any]]]:
    """Cells as rows: the axes, the measures, and where the picture is."""
    names = [metric.name for metric in metrics if any(metric.name in line["metrics"] for line in lines)]
    places = [axis.name for axis in axes]
    columns = [*places, *names, "picture", "key", "notes"]
    rows = [
        {
            **{name: line["place"][name] for name in places},
            **{name: line["metrics"].get(name) for name in names},
            "picture": f"pictures/{line['key']}.png",
            "key": line["key"],
            "notes": " ".join(line["notes"]),
        }
        for line in lines
    ]
    return columns, rows


def _parquet(path: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({column: [row[column] for row in rows] for column in columns})
    with written(path) as temporary:
        parquet.write_table(table, temporary)


def _about(sweep: Sweep, lines: list[Line], name: str, total: int) -> dict[str, Any]:
    count = f"{len(lines):,} cells" if len(lines) == total else f"{len(lines):,} of {total:,} cells"
    times = " × ".join(f"{axis.label} ({len(axis.values):,})" for axis in sweep.axes)
    drawn = "" if sweep.sample is None else f", a random sample of {sweep.whole:,} (seed {sweep.sample_seed})"
    axes = {f"Axis {axis.name}": _listed(axis, sweep) for axis in sweep.axes}
    fixed = {name: value for name, value in {**sweep.asked, **sweep.fixed}.items() if name not in axes}
    return {
        "title": "Z-Image VL sweep",
        "lead": f"{count}{drawn}: {times}. Made by {name}.",
        "facts": {"Made by": sweep.identity, "Z-Image VL": __version__, **axes, **fixed},
    }


def _listed(axis: Axis, sweep: Sweep) -> str:
    values = [sweep.pictures[v].label if v in sweep.pictures else shown(v) for v in axis.values[:_LISTED]]
    more = f" and {len(axis.values) - _LISTED:,} more" if len(axis.values) > _LISTED else ""
    return "; ".join(values) + more
