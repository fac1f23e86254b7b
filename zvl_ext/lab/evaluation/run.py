"""`python -m zvl_ext evaluate`: measures the product on the miniature family, and writes what it found.

Rows of the table of experiments are measured one by one and kept, so that a run that was stopped goes on where it was.
A row is a function of the weights and of itself: neither the number of workers nor the order changes its numbers.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...errors import ZvlError
from .. import lines
from ..crew import Crew
from ..digests import weights_digest
from ..miniature import adapter, family
from ..processes import Process
from ..threads import one_thread
from . import report
from .bench import Bench
from .experiments import QUICK, Plan, Row, experiments

ROWS = "rows.jsonl"


def finished(path: str, weights: str) -> dict[str, dict[str, Any]]:
    """What an earlier run measured with the same weights, by the row's key."""
    return {
        entry["key"]: entry["values"]
        for entry in lines.read(path)
        if entry.get("weights") == weights and {"key", "values"} <= set(entry)
    }


def _prepare(weights: str, count: int) -> Callable[[Row], dict[str, Any]]:
    """What measures a row, in a process of its own or in this one."""
    torch.set_num_threads(1)  # the numbers shall not depend on the number of workers
    family.be_quiet()
    return Bench(weights, count).measure


def _measured(rows: list[Row], weights: str, count: int, workers: int) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows with their measurements, as they are done."""
    if workers <= 1:
        with one_thread():
            measure = _prepare(weights, count)
            for row in rows:
                yield row, measure(row)
        return
    with Crew([Process(f"Worker {n}", _prepare, weights, count) for n in range(1, workers + 1)]) as crew:
        waiting = {crew.submit(row): row for row in rows}
        for done in concurrent.futures.as_completed(waiting):
            yield waiting[done], done.result()


def run(
    weights: str = family.WEIGHTS,
    out: str | None = None,
    plan: Plan | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = print,
    rows: list[Row] | None = None,
) -> dict[str, Any]:
    """Measure what is not yet measured, and write results.json, evidence.md and the plots.

    Args:
        weights: The miniature family's folder.
        out: Where the results go; default: `evidence` beside the weights (`evidence-quick` for the plan QUICK).
        workers: Processes; default: one for each core, at most 8.
        rows: The table of experiments; default: the plan's.

    Returns:
        What results.json holds.

    Raises:
        ZvlError: no weights, or a folder that can't be written.
    """
    if not os.path.isfile(os.path.join(weights, "classifier.safetensors")):
        raise ZvlError(f"{weights} is not a folder of the miniature family: it has no classifier.safetensors.")
    quick = plan is not None and plan.alphas == QUICK.alphas
    folder = "evidence-quick" if quick else "evidence"  # a quick look shall not replace the full measurement
    out = out or os.path.join(os.path.dirname(os.path.abspath(weights)), folder)
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise ZvlError(f"{out} can't be written ({error.strerror or error}).") from error
    with lines.Lines(os.path.join(out, ROWS)) as log:
        rows = experiments(plan or Plan()) if rows is None else rows
        if not os.path.isfile(os.path.join(weights, adapter.FILE)):
            say(f"No {adapter.FILE} in {weights}: the trained adapter is left out.")
            rows = [row for row in rows if row.how != "adapter"]
        digest = weights_digest(weights)
        values = finished(log.path, digest)
        # Rows of one layer after another: their hidden states are still in memory.
        missing = sorted({row.key: row for row in rows if row.key not in values}.values(), key=_nearness)
        workers = workers or min(os.cpu_count() or 1, 8)
        workers = min(workers, len(missing))
        cost = sum(row.pairs * row.seeds for row in missing)
        say(f"{len(missing)} of {len(rows)} rows to measure, {cost} pictures, {max(workers, 1)} processes.")
        began, done = time.monotonic(), 0
        if missing:
            for row, found in _measured(missing, weights, max(row.numbers.stop for row in rows), workers):
                values[row.key] = found
                log.add({"weights": digest, "key": row.key, "values": found})
                done += row.pairs * row.seeds
                say(
                    f"{100 * done / cost:5.1f} %  {(time.monotonic() - began) / 60:5.1f} min  {row.part}: {row.name}, "
                    f"{row.alpha:g}"
                )
    return report.write(out, [(row, values[row.key]) for row in rows], digest, say)


def _nearness(row: Row) -> tuple:
    return (row.how, row.values.get("engine", ""), -row.values.get("hidden_layer", 0), row.values.get("positions", ""))
