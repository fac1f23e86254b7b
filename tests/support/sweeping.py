"""Sweeps that are ended at any moment, by machines or by people, and how fast they are: a script of its own.

    python tests/support/sweeping.py kills --folder /tmp/sweeping
    python tests/support/sweeping.py cluster | webuis | throughput

It prints what it found, as JSON. The miniature makes the pictures, for `webuis` two stand-ins of a web UI.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

AXES = ("--axis", "weight=0:1:0.2", "--axis", "hidden_layer=-2,-6,-12")
KINDS = ("png", "jsonl", "csv")


def references(folder: Path, count: int) -> Path:
    from PIL import Image

    from zvl_ext.lab.evaluation.experiments import pairs
    from zvl_ext.lab.miniature import world

    folder.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(pairs(count)):
        Image.fromarray(world.draw(pair.shown, pair.drawing)).save(folder / f"{number:02}.png")
    return folder


def command(out: Path, shown: Path, *more: object) -> list[str]:
    arguments = ["--prompt", "a large cross", "--references", shown, "--out", out, *AXES, *more]
    return [sys.executable, "-m", "zvl_ext", "sweep", *map(str, arguments)]


def sweep(out: Path, shown: Path, *more: object) -> tuple[float, str]:
    """A whole one: seconds, and what was said."""
    began = time.monotonic()
    done = subprocess.run(command(out, shown, *more), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return time.monotonic() - began, done.stdout + done.stderr


def files(out: Path) -> dict[str, str]:
    """Digests of what there is, by name."""
    found = [path for path in out.rglob("*") if path.suffix[1:] in (*KINDS, "tmp")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def kills(folder: Path, shown: Path) -> dict[str, Any]:
    """Killed ten times at random moments, the whole process group or the main process alone, and run to its end."""
    choose, ended = random.Random(0), []  # noqa: S311
    sweep(folder / "whole", shown)
    out = folder / "killed"
    cells = len(list((folder / "whole" / "pictures").iterdir()))
    for number in range(10):
        before = len(list(out.glob("pictures/*.png")))
        process = subprocess.Popen(
            command(out, shown), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        more = choose.randrange(1, cells // 10)
        _until(lambda: process.poll() is not None or len(list(out.glob("pictures/*.png"))) >= before + more)  # noqa: B023
        time.sleep(choose.uniform(0, 0.3))
        alone = number % 2
        with contextlib.suppress(ProcessLookupError):
            (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        ended.append(len(list((out / "pictures").glob("*.png"))))
    _, said = sweep(out, shown)
    lines = (out / "cells.jsonl").read_text().splitlines()
    return {
        "pictures after each kill": ended,
        "said at last": said.splitlines()[0],
        "cells": len(lines),
        "twice": len(lines) - len({json.loads(line)["key"] for line in lines}),
        "same files and bytes": files(folder / "whole") == files(out),
    }


def cluster(folder: Path, shown: Path) -> dict[str, Any]:
    """A Dask cluster of two workers, of which one is killed in the middle."""
    from distributed import LocalCluster

    sweep(folder / "whole", shown)
    out = folder / "dask"
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        pids = [worker.pid for worker in local.workers.values()]
        killed: list[int] = []

        def kill() -> None:
            while len(list(out.glob("pictures/*.png"))) < 40:
                time.sleep(0.05)
            os.kill(pids[0], signal.SIGKILL)
            killed.append(len(list(out.glob("pictures/*.png"))))

        watching = threading.Thread(target=kill)
        watching.start()
        seconds, _ = sweep(out, shown, "--dask", local.scheduler_address)
        watching.join()
    lines = (out / "cells.jsonl").read_text().splitlines()
    return {
        "killed after": killed,
        "cells": len(lines),
        "twice": len(lines) - len({json.loads(line)["key"] for line in lines}),
        "same files and bytes": files(folder / "whole") == files(out),
        "seconds": round(seconds, 1),
    }


def webuis(folder: Path, shown: Path) -> dict[str, Any]:
    """Two web UIs, of which one dies in the middle."""
    from web_uis import WebUI

    with WebUI(seconds=0.05) as one, WebUI(seconds=0.05) as other:
        threading.Thread(target=lambda: (_until(lambda: len(other.made) >= 30), other.die())).start()
        seconds, said = sweep(folder / "webuis", shown, "--webui", one.url, "--webui", other.url)
        made = [json.dumps(body, sort_keys=True) for body in (*one.made, *other.made)]
        asked = len(one.asked) + len(other.asked)
    lines = (folder / "webuis" / "cells.jsonl").read_text().splitlines()
    return {
        "cells": len(lines),
        "asked for": asked,
        "made by each": [len(one.made), len(other.made)],
        "made twice": len(made) - len(set(made)),
        "twice": len(lines) - len({json.loads(line)["key"] for line in lines}),
        "said": [line for line in said.splitlines() if "does not work" in line],
        "seconds": round(seconds, 1),
    }


def _until(true: Any) -> None:
    while not true():
        time.sleep(0.01)


COUNT = int(os.environ.get("ZVL_CELLS", "120"))  # whose time is taken
FIRST = 6  # cells that are made before


def throughput(folder: Path, shown: Path) -> dict[str, Any]:
    """A cell with one worker and with two, and against calling the pipeline directly, before and after: by the clock,
    and by what the processors did, which other work on the machine does not change. All of them load and make a few
    cells first. And two web UIs that take a quarter of a second for a picture, against one."""
    from zvl_ext.commands.sweep import add
    from zvl_ext.lab.sweep import command as whole
    from zvl_ext.lab.sweep.cells import Sweep, opened
    from zvl_ext.lab.sweep.folder import Folder
    from zvl_ext.lab.sweep.run import Run
    from zvl_ext.lab.sweep.targets import Job, open_target
    from zvl_ext.lab.threads import one_thread

    commands = argparse.ArgumentParser().add_subparsers()
    add(commands)

    def grid_of(workers: int) -> tuple[Any, Any, Any]:
        args = commands.choices["sweep"].parse_args(command(folder / f"w{workers}", shown, "--workers", workers)[4:])
        args.set, args.reference = {}, sorted(map(str, shown.iterdir()))
        axes = whole.axes_of(args)
        target = open_target(args, print)
        return args, target, Sweep(axes, {}, whole.asked_of(args), opened(axes, {}), target.identity)

    def swept(workers: int) -> tuple[float, float, float]:
        """Seconds of a cell: by the clock, of the workers' processors, of this process'."""
        args, target, grid = grid_of(workers)
        there = Folder(args.out)
        with there.opened(), one_thread():
            run = Run(grid, there, whole.metrics_of(args, print))
            _, left = run.missing()
            run.make(left[:FIRST], target)
            pids = [member.pid for member in target.members]
            began, theirs, own = time.monotonic(), sum(map(_processor, pids)), time.process_time()
            run.make(left[FIRST : FIRST + COUNT], target)
            took = time.monotonic() - began, sum(map(_processor, pids)) - theirs, time.process_time() - own
        target.close()
        return tuple(seconds / COUNT for seconds in took)

    _, target, grid = grid_of(1)
    target.close()
    jobs = []
    for number in grid.numbers[: FIRST + COUNT]:
        cell = grid.cell(number)
        data = {name: Path(picture.path).read_bytes() for name, picture in cell.pictures.items()}
        jobs.append(Job(cell.settings, cell.asked, data))
    with one_thread():
        before = _direct(jobs)
        one, two = swept(1), swept(2)
        after = _direct(jobs)
    clock, processor = ((a + b) / 2 for a, b in zip(before, after))
    apart = [_apart(folder / f"apart{count}", shown, count) for count in (1, 2)]
    return {
        "direct calls, ms each by the clock and of the processor": [[round(1000 * v, 1) for v in before],
                                                                    [round(1000 * v, 1) for v in after]],
        "cells, the same and this process', 1 worker": [round(1000 * v, 1) for v in one],
        "2 workers": [round(1000 * v, 1) for v in two],
        "overhead of a cell by the clock": f"{one[0] / clock - 1:.1%}",
        "of the worker's processor": f"{one[1] / processor - 1:.1%}",
        "of all processors, measuring included": f"{(one[1] + one[2]) / processor - 1:.1%}",
        "throughput of 2 workers against 1": round(one[0] / two[0], 2),
        "of 2 web UIs against 1": round(apart[0] / apart[1], 2),
    }  # fmt: skip


def _processor(pid: int) -> float:
    """Seconds that a process' processors were at work."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _apart(folder: Path, shown: Path, count: int) -> float:
    """Seconds of a cell over web UIs that wait instead of working."""
    from web_uis import WebUI

    with contextlib.ExitStack() as stack:
        webs = [stack.enter_context(WebUI(seconds=0.25)) for _ in range(count)]
        _, said = sweep(folder, shown, "--sample", COUNT, *(word for web in webs for word in ("--webui", web.url)))
    return float(said.split(" s each")[0].rpartition(" ")[2])


def _direct(jobs: list[Any]) -> tuple[float, float]:
    """Seconds of a picture, made by nothing but the pipeline: by the clock, and of the processor."""
    from zvl_ext.lab import demo
    from zvl_ext.lab.sweep.targets import pipeline
    from zvl_ext.webui.standalone import make

    none = dict.fromkeys(("z_image", "qwen3_vl", "weights", "size", "steps", "guidance"))
    weights = demo.open_weights(argparse.Namespace(**none, device="cpu"))
    requests = [pipeline.request(job, weights) for job in jobs]
    for request in requests[:FIRST]:
        make(weights, request)
    began, own = time.monotonic(), time.process_time()
    for request in requests[FIRST:]:
        make(weights, request)
    return (time.monotonic() - began) / COUNT, (time.process_time() - own) / COUNT


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "cluster", "webuis", "throughput"))
    parser.add_argument("--folder", default=tempfile.gettempdir() + "/zvl-sweeping")
    parser.add_argument("--references", type=int, default=20)
    arguments = parser.parse_args()
    base = Path(arguments.folder)
    shutil.rmtree(base, ignore_errors=True)
    print(json.dumps(globals()[arguments.what](base, references(base / "shown", arguments.references)), indent=1))
