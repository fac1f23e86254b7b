"""The table of what little training brings: a line for each way, over half-specified prompts and full ones."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ..miniature import adapter
from ..miniature.learned import Learned, learned
from .claims.fitted import FULL, HALF, KINDS, best_of
from .rows import Row
from .table import Entry, Missing, Table, with_interval

_HALF = {"kept": "adherence", "filled": "similarity", "lost": "lost"}
_FULL = {"adherence": "adherence", "similarity": "similarity"}
_BOTH = ("distance", "cosine")


@functools.lru_cache(maxsize=2)
def _adapter(weights: str) -> Learned:
    return adapter.made(weights)


def _learned(row: Row, weights: str) -> Learned | None:
    """What was learned for a row; None where nothing was."""
    if row.how == "adapter":
        return _adapter(weights)
    return next((learned(kind, name) for kind, name in row.learned.items()), None)


def learned_for(row: Row, weights: str) -> dict[str, Any]:
    """As `results.json` has it: `learned`, with the number of parameters and the seconds of training.

    Args:
        weights: The miniature family's folder.
    """
    made = _learned(row, weights)
    return {"learned": {"parameters": made.parameters, "seconds": made.seconds}} if made else {}


def fitted_table(table: Table, weights: str) -> tuple[list[str], list[list[str]]]:
    """The header and the lines, those of half-specified and of full prompts side by side.

    Args:
        weights: As for `learned_for`.
    """
    entries = {entry.row.name: entry for entry in table.part("fitted")}
    names = dict.fromkeys(name.removeprefix(HALF).removeprefix(FULL) for name in entries)
    best = best_settings(table)
    header = ["setting", "parameters", "seconds"]
    for asked, own in (("half", _HALF), ("full", _FULL)):
        header += [f"{asked}: {column}" for column in (*own, *_BOTH, "Fréchet")]
    lines = []
    for name in names:
        half, full = entries.get(HALF + name), entries.get(FULL + name)
        line = [f"**{name}**" if name in best else name, *_made((half or full).row, weights)]
        lines.append([*line, *_numbers(half, _HALF), *_numbers(full, _FULL)])
    return header, lines


def best_settings(table: Table) -> list[str]:
    """Of each kind that was measured the setting that keeps and fills most on every other pair, by its name."""
    found = []
    for kind in KINDS:
        with contextlib.suppress(Missing):
            found.append(best_of(table, kind).row.name.removeprefix(HALF))
    return found


def _made(row: Row, weights: str) -> list[str]:
    made = _learned(row, weights)
    if made is None:
        return ["0", "0"]
    return [f"{made.parameters:,}", "" if made.seconds is None else f"{made.seconds:.0f}"]


def _numbers(entry: Entry | None, columns: dict[str, str]) -> list[str]:
    if entry is None:
        return [""] * (len(columns) + len(_BOTH) + 1)
    told = [with_interval(entry.interval(name)) for name in (*columns.values(), *_BOTH)]
    return [*told, f"{entry.values['frechet']:.1f}"]
