"""Processes that write into one store and are killed at any moment, as a script of its own:

    python tests/support/killed.py --kills 200 --folder /tmp/store

Every other time they are stopped in the middle of a file first. What it prints, as JSON: how many were killed while a
file was half-written (`halves`), the most bytes that the folder held (`most`), entries that were read right and wrong,
and what was left after one more put.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from zvl_ext.store import Disk

KEYS, ROWS, WRITERS = 12, 2**19, 3  # entries of 2 MiB
LIMIT = 8 * ROWS * 4


def write(folder: str, seed: int) -> None:
    """Put for ever."""
    disk, choose = Disk(folder, LIMIT), random.Random(seed)  # noqa: S311
    while True:
        key = choose.randrange(KEYS)
        disk.put(key, {"x": torch.full((ROWS + key,), float(key))})


def used(folder: str) -> int:
    total = 0
    for path in Path(folder).iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def halves_in(folder: str) -> int:
    return len(list(Path(folder).glob("*.tmp")))


def stopped_in_a_file(folder: str, writers: list[int], seconds: float = 20) -> None:
    """Stop the writers at a moment at which one of them has a file half-written."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if halves_in(folder):
            for process in writers:
                os.kill(process, signal.SIGSTOP)
                os.waitpid(process, os.WUNTRACED)
            if halves_in(folder):
                return
            for process in writers:
                os.kill(process, signal.SIGCONT)


def run(folder: str, kills: int) -> dict[str, int | list[str]]:
    torch.set_num_threads(1)  # nothing of torch's that a fork would lack
    choose, halves, most, wrong, found_any = random.Random(0), 0, 0, 0, 0  # noqa: S311
    disk = Disk(folder, LIMIT)
    disk.put("first", {"x": torch.zeros(3)})  # everything is imported
    for start in range(0, kills, WRITERS):
        writers = []
        for seed in range(start, min(start + WRITERS, kills)):
            if not (process := os.fork()):
                write(folder, seed)
            writers.append(process)
        until = time.monotonic() + choose.uniform(0.005, 0.15)
        while time.monotonic() < until:
            most = max(most, used(folder))
        if start // WRITERS % 2 == 0:
            stopped_in_a_file(folder, writers)
        for process in writers:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        halves += halves_in(folder)
        for key in range(KEYS):
            found = disk.get(key)
            found_any += found is not None
            wrong += found is not None and not (found["x"].shape == (ROWS + key,) and bool((found["x"] == key).all()))
    disk.put("last", {"x": torch.zeros(3)})
    left = [path.name for path in Path(folder).iterdir() if not path.name.endswith(".zvl.safetensors")]
    return {
        "kills": kills,
        "halves": halves,
        "limit": LIMIT,
        "most": most,
        "after": used(folder),
        "right": found_any - wrong,
        "wrong": wrong,
        "left": left,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--folder", default=tempfile.gettempdir() + "/zvl-killed")
    arguments = parser.parse_args()
    os.makedirs(arguments.folder, exist_ok=True)
    print(json.dumps(run(arguments.folder, arguments.kills)))
