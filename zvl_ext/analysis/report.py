"""An analysis as one HTML file, and as a folder of files."""

from __future__ import annotations

import html
import json
import os

from ..errors import ZvlError
from ..output import written
from .data import data_of
from .measuring import Analysis
from .plots import drawn, embedded
from .tables import tables

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1200px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; } th, td { border: 1px solid #ddd; padding: 2px 7px; }
th { background: #f3f3f3; text-align: left; } td { text-align: right; } td:first-child { text-align: left; }
.zvl-table { overflow-x: auto; } img { max-width: 100%; margin: 4px; } h4 { margin: 1.6em 0 0.3em; }
"""


def body(found: Analysis, plots: dict[str, bytes] | None = None) -> str:
    """The analysis as a part of a page.

    Args:
        plots: From `drawn`; default: drawn now.
    """
    plots = drawn(found) if plots is None else plots
    about = ", ".join(f"{name}: {value}" for name, value in found.about.items())
    note = f"<p>{html.escape(found.note)}</p>" if found.note else ""
    return f"<p>{html.escape(about)}</p>{note}{embedded(plots)}{''.join(table.html() for table in tables(found))}"


def page(found: Analysis, plots: dict[str, bytes] | None = None) -> str:
    """The analysis as a page of its own, which needs no other file."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Z-Image VL: statistics</title>"
        f"<style>{_STYLE}</style></head><body><h2>Statistics</h2>{body(found, plots)}</body></html>"
    )


def check_folder(path: str) -> None:
    """Raise ZvlError unless a folder is there or can be made: before the work, not after it."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise ZvlError(f"--out {path}: no folder can be made there ({error.strerror or error}).") from error


def save(found: Analysis, folder: str) -> list[str]:
    """Write the analysis into a folder that is there: a page, its numbers, its plots where matplotlib is there.

    Returns:
        The files' names.
    """
    plots = drawn(found)
    files = {
        "statistics.html": page(found, plots).encode(),
        "statistics.json": (json.dumps(data_of(found), ensure_ascii=False, indent=1) + "\n").encode(),
        **{f"{title.replace(' ', '_')}.png": png for title, png in plots.items()},
    }
    for name, content in files.items():
        with written(os.path.join(folder, name)) as temporary, open(temporary, "wb") as file:
            file.write(content)
    return list(files)
