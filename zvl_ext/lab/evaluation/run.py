"""`python -m zvl_ext evaluate`: measures the product on the miniature family, and writes what it found.

Rows of the table of experiments are measured one by one and kept, so that a run that was stopped goes on where it was.
A row is a function of the weights and of itself: neither the number of workers nor the order changes its numbers.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...errors import ZvlError
from ..miniature import adapter, family
from . import report
from .bench import Bench
from .experiments import QUICK, Plan, Row, experiments

ROWS = "rows.jsonl"


def weights_digest(folder: str) -> str:
    """Of every weight file below a folder."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".safetensors"):
                with open(os.path.join(root, name), "rb") as file:
                    digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:16]


def finished(path: str, weights: str) -> dict[str, dict[str, Any]]:
    """What an earlier run measured with the same weights, by the row's key."""
    if not os.path.isfile(path):
        return {}
    known = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError):  # a line that was cut off when a run was stopped
                entry = json.loads(line)
                if entry["weights"] == weights:
                    known[entry["key"]] = entry["values"]
    return known


_bench: Bench | None = None  # a worker process's own


def _prepare(weights: str, count: int) -> None:
    global _bench
    torch.set_num_threads(1)
    family.be_quiet()
    _bench = Bench(weights, count)


def _measure(row: Row) -> dict[str, Any]:
    return _bench.measure(row)


def _measured(rows: list[Row], weights: str, count: int, workers: int) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Rows with their measurements, as they are done."""
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the numbers shall not depend on the number of workers
        try:
            family.be_quiet()
            bench = Bench(weights, count)
            for row in rows:
                yield row, bench.measure(row)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _prepare, (weights, count)) as pool:
        waiting = {pool.submit(_measure, row): row for row in rows}
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


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
        log = open(os.path.join(out, ROWS), "a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ZvlError(f"{out} can't be written ({error.strerror or error}).") from error
    with log:
        rows = experiments(plan or Plan()) if rows is None else rows
        if not os.path.isfile(os.path.join(weights, adapter.FILE)):
            say(f"No {adapter.FILE} in {weights}: the trained adapter is left out.")
            rows = [row for row in rows if row.how != "adapter"]
        digest = weights_digest(weights)
        values = finished(log.name, digest)
        # Rows of one layer after another: their hidden states are still in memory.
        missing = sorted({row.key: row for row in rows if row.key not in values}.values(), key=_nearness)
        workers = workers or min(os.cpu_count() or 1, 8)
        workers = min(workers, len(missing))
        cost = sum(row.pairs * row.seeds for row in missing)
        say(f"{len(missing)} of {len(rows)} rows to measure, {cost} pictures, {max(workers, 1)} processes.")
        began, done = time.monotonic(), 0
        if missing:
            for row, found in _measured(missing, weights, max(row.pairs for row in rows), workers):
                values[row.key] = found
                # The line break comes first: a run that was stopped may have left half a line.
                log.write("\n" + json.dumps({"weights": digest, "key": row.key, "values": found}))
                log.flush()
                done += row.pairs * row.seeds
                say(
                    f"{100 * done / cost:5.1f} %  {(time.monotonic() - began) / 60:5.1f} min  {row.part}: {row.name}, "
                    f"{row.alpha:g}"
                )
    return report.write(out, [(row, values[row.key]) for row in rows], digest, say)


def _nearness(row: Row) -> tuple:
    return (row.how, row.values.get("engine", ""), -row.values.get("hidden_layer", 0), row.values.get("positions", ""))
