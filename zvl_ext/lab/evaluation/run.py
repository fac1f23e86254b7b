"""`python -m zvl_ext evaluate`: measures the product on the miniature family, and writes what it found.

Rows of the table of experiments are measured one by one and kept, as a sweep's cells are, so that a run that was
stopped goes on where it was. A row is a function of the weights and of itself: neither the number of workers nor the
order changes its numbers.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from ...errors import ZvlError
from ...hosts.standalone_lora import NEEDED
from ..crew import Crew
from ..digests import weights_digest
from ..kept import Kept
from ..miniature import adapter, family
from ..processes import Process
from ..work import Done, attended, handed_out
from . import report
from .bench import Bench
from .experiments import QUICK, Plan, experiments
from .rows import Row

ROWS = "rows.jsonl"
_AHEAD = 32  # rows that are handed over for each process: enough to choose those of its own layer


def kept_in(out: str, weights: str) -> Kept:
    """A folder's rows that were measured with the same weights."""
    return Kept(out, ROWS, lambda line: line.get("weights") == weights and {"key", "values"} <= set(line))


def _prepare(weights: str, count: int) -> Callable[[Row], dict[str, Any]]:
    """What measures a row, in a process of its own."""
    torch.set_num_threads(1)  # the numbers shall not depend on the number of workers
    family.be_quiet()
    return Bench(weights, count).measure


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
        ZvlError: no weights, a folder that can't be written, or rows that can't be measured; the others are kept.
    """
    if not os.path.isfile(os.path.join(weights, "classifier.safetensors")):
        raise ZvlError(f"{weights} is not a folder of the miniature family: it has no classifier.safetensors.")
    quick = plan is not None and plan.alphas == QUICK.alphas
    folder = "evidence-quick" if quick else "evidence"  # a quick look shall not replace the full measurement
    out = out or os.path.join(os.path.dirname(os.path.abspath(weights)), folder)
    rows = experiments(plan or Plan()) if rows is None else rows
    if not os.path.isfile(os.path.join(weights, adapter.FILE)):
        say(f"No {adapter.FILE} in {weights}: the trained adapter is left out.")
        rows = [row for row in rows if row.how != "adapter"]
    if not importlib.util.find_spec("peft"):
        say(f"The LoRA's rows are left out: peft is not there. {NEEDED}")
        rows = [row for row in rows if not row.lora]
    digest = weights_digest(weights)
    kept = kept_in(out, digest)
    with kept.opened():
        _measure(rows, kept, weights, digest, workers or min(os.cpu_count() or 1, 8), say)
        return report.write(out, [(row, kept.done[row.key]["values"]) for row in rows], digest, say, weights)


def _measure(rows: list[Row], kept: Kept, weights: str, digest: str, workers: int, say: Callable[[str], None]) -> None:
    """Measure the rows that are not kept.

    Raises:
        ZvlError: some can't be.
    """
    every = {row.key: row for row in rows}
    # Rows of one layer after another: their hidden states are still in memory.
    missing = sorted((row for key, row in every.items() if key not in kept.done), key=_nearness)
    pictures = sum(row.pictures for row in every.values())
    left = sum(row.pictures for row in missing)
    workers = min(workers, len(missing))
    say(f"{len(missing)} of {len(rows)} rows to measure, {left} pictures, {workers} processes.")
    if not missing:
        return

    def state() -> str:
        done = sum(key in kept.done for key in every)
        return f"{done} of {len(every)} rows are measured; the same command goes on from there."

    def keep(row: Row, values: dict[str, Any]) -> None:
        kept.keep({"weights": digest, "key": row.key, "values": values})

    def work(on_pictures: Callable[[float], Any]) -> Done[Row]:
        return handed_out(missing, crew, lambda row: row, keep, lambda row: on_pictures(row.pictures))

    count = max(row.numbers.stop for row in rows)
    members = [Process(f"Worker {number}", _prepare, weights, count) for number in range(1, workers + 1)]
    with Crew(members, group=_nearness, say=say, ahead=_AHEAD) as crew:
        done = attended(work, pictures, pictures - left, "picture", state, say, crew.close)
    if done.failed:
        row, why = done.failed[0]
        many = "1 row" if len(done.failed) == 1 else f"{len(done.failed)} rows"
        raise ZvlError(f"{many} could not be measured, such as {row.part}, {row.name}: {why} {state()}")


def _nearness(row: Row) -> tuple:
    return (
        row.how,
        row.lora,
        row.values.get("engine", ""),
        -row.values.get("hidden_layer", 0),
        row.values.get("positions", ""),
    )
