"""One benchmark from the weights on disk to the table."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import torch

from .attention import attention
from .bench import Bench
from .rows import conditioning, memory, reading, storage
from .sampling import sampling
from .size import Size
from .weights import DTYPE, SEED, random_checkpoint


def run(
    size: Size,
    repetitions: int,
    work: str | None = None,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> dict[str, Any]:
    """Measure everything.

    Args:
        work: A folder for the random weights, which stay there; default: a temporary one.
        say: Takes lines about the progress.

    Returns:
        Plain data: `machine`, `model` and `rows`.

    Raises:
        ZvlError: too little disk or memory, or hidden states that are not what transformers computes.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    with random_checkpoint(size, work, say) as checkpoint:
        bench = Bench(size, checkpoint, repetitions, say)
        rows = [*reading(bench), *memory(bench), *storage(bench), conditioning(bench)]
        parameters = checkpoint.parameters
        del bench, checkpoint
    rows += [*sampling(size, repetitions, say), *attention(size, repetitions, say)]
    return {
        "machine": machine(),
        "model": {
            "size": size.name,
            "title": size.title,
            "parameters": parameters,
            "dtype": str(DTYPE).removeprefix("torch."),
            "seed": SEED,
        },
        "repetitions": repetitions,
        "rows": [row.as_dict() for row in rows],
    }


def machine() -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "diffusers")},
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(report: dict[str, Any]) -> str:
    """For people: one line for each row."""
    cells = [("what", "naive", "ours", "ratio", "target", "met", "note"), *map(_cells, report["rows"])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]) - 1)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:])), line[-1]]
        ).rstrip()
        for line in cells
    ]
    model, machine = report["model"], {name: value for name, value in report["machine"].items() if value is not None}
    head = [
        f"{model['title']}: {model['parameters'] / 1e9:.3g} billion random parameters in {model['dtype']}",
        f"medians of {report['repetitions']} (of 2 at most with the larger reference) after a warm-up, with all "
        "weights loaded",
        ", ".join(f"{name} {value}" for name, value in machine.items()),
    ]
    return "\n".join([*head, "", *lines])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    naive, ours = (_value(row[side], row["unit"]) for side in ("naive", "ours"))
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
    if row["target"] is None:
        target = ""
    else:
        target = _value(row["target"], row["unit"]) if row["absolute"] else f"{row['target']:.2f}"
    return row["name"], naive, ours, ratio, target, {True: "yes", False: "no", None: ""}[row["met"]], row["note"]


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f} {unit}" if value == int(value) or abs(value) >= 100 else f"{value:.3g} {unit}"
