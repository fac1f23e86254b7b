"""`python -m zvl_ext sweep`: from the command line to a finished folder."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

from ... import measures
from ...errors import ZvlError
from ...options import BY_NAME
from ...output import written
from ...outside import plain, read_regular, reason
from ..miniature import family
from ..threads import one_thread
from ..work import Done, attended
from . import report
from .axes import ASKED, SEEDS, Axis, known, parse
from .cells import Cell, Sweep, opened
from .folder import ABOUT, Folder
from .run import Run, seconds_each
from .targets import Target, open_target

ASK = 5_000  # cells from which on the user is asked
MOST = 10_000_000
_PROMPTS = 16 * 2**20  # bytes of a file of prompts
_MINIATURE = {
    "size": family.SAMPLING["size"][0],
    "steps": family.SAMPLING["steps"],
    "cfg": family.SAMPLING["guidance"] + 1,
}
_REAL = {"size": 1024, "steps": 8, "cfg": 1.0}

Say = Callable[[str], None]


def sweep(args: argparse.Namespace, say: Say) -> Done[Cell]:
    """Make, measure and report what the command line asks for.

    Args:
        args: As `commands.sweep` declares them; `reference` has all references, `set` the options by name.

    Raises:
        ZvlError: with one line; what is done by then stays.
    """
    axes, asked = axes_of(args), asked_of(args)
    check(args, axes)
    pictures = opened(axes, args.set)
    grid = Sweep(axes, args.set, asked, pictures, sample=args.sample, sample_seed=args.sample_seed)
    if len(grid) > MOST:
        raise ZvlError(f"{len(grid):,} cells are more than anybody waits for. Take some at random: --sample 1000")
    grid.cell(grid.numbers[0])
    left_out: list[str] = []
    used = metrics_of(args, left_out.append)
    with contextlib.ExitStack() as stack:
        if _judged(args):
            stack.enter_context(one_thread())
        target = open_target(args, say)
        stack.callback(target.close)
        folder = Folder(args.out)
        stack.enter_context(folder.opened())
        grid = Sweep(axes, args.set, asked, pictures, target.identity, args.sample, args.sample_seed)
        for line in left_out:
            say(line)
        _write_about(args.out, grid, target)
        return _made(args, Run(grid, folder, used), target, say)


def _made(args: argparse.Namespace, run: Run, target: Target, say: Say) -> Done[Cell]:
    if len(run.sweep) > ASK and not args.yes:
        raise ZvlError(_how_long(run, target))
    total, left = run.missing()
    kept, began = total - len(left), time.monotonic()
    if kept:
        say(f"{kept:,} of {total:,} cells are done already.")

    def stopped() -> None:
        target.close()
        _report(args, run, target, total)

    done = attended(
        lambda on_cell: run.make(left, target, on_cell), total, kept, "cell", lambda: _state(run, total), say, stopped
    )
    page = _report(args, run, target, total)
    if done.made:
        took = time.monotonic() - began
        print(f"{done.made:,} cells made in {duration(took)}, {took / done.made:.2f} s each.")
    if done.failed:
        say(f"{len(done.failed):,} of {total:,} cells could not be made: {done.failed[0][1]}")
    print(page)
    return done


def _state(run: Run, total: int) -> str:
    done = sum(cell.key in run.folder.done for cell in run.sweep)
    return f"{done:,} of {total:,} cells are done; the same command goes on from there."


def _report(args: argparse.Namespace, run: Run, target: Target, total: int) -> str:
    lines = run.table()
    run.folder.finish(lines)
    return report.write(args.out, run.sweep, lines, run.metrics, target.name, total)


def _how_long(run: Run, target: Target) -> str:
    """What is said of very many cells, after a trial with a few of them."""
    cells = (cell.number for cell in run.sweep if not run.folder.holds(cell.key))
    each, _ = seconds_each(run, list(itertools.islice(cells, 1 + 2 * target.hands)), target)
    return (
        f"{len(run.sweep):,} cells take about {duration(each * len(run.sweep))} here ({each:.2g} s each). Say --yes to "
        "make them all, or take some at random: --sample 500"
    )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(200000)
    '2.3 days'
    """
    for name, length in (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds:.0f} s"


def _write_about(out: str, grid: Sweep, target: Target) -> None:
    about = {
        "made by": {"name": target.name, "identity": grid.identity},
        "axes": {axis.name: axis.values for axis in grid.axes},
        "set": grid.fixed,
        "asked": grid.asked,
        "sample": grid.sample,
        "sample seed": grid.sample_seed,
    }
    with written(os.path.join(out, ABOUT)) as path, open(path, "w", encoding="utf-8") as file:
        json.dump(about, file, indent=2)


def axes_of(args: argparse.Namespace) -> tuple[Axis, ...]:
    """All axes that the arguments name, prompts, references and seeds among them."""
    axes = [parse(text) for text in args.axis]
    prompts = [*args.prompt, *(_lines(args.prompts) if args.prompts else [])]
    if prompts:
        axes.append(Axis("prompt", tuple(dict.fromkeys(ASKED["prompt"].check(prompt) for prompt in prompts))))
    if args.reference:
        axes.append(Axis("reference", tuple(dict.fromkeys(args.reference))))
    if args.seeds > 1 or not any(axis.name == "seed" for axis in axes):
        if args.seed + args.seeds > SEEDS:
            raise ZvlError(f"--seed {args.seed}: the last of {args.seeds} seeds would be over {SEEDS - 1}.")
        axes.append(Axis("seed", tuple(range(args.seed, args.seed + args.seeds))))
    if not any(axis.name == "prompt" for axis in axes):
        raise ZvlError("A sweep needs prompts: --prompts FILE, one a line, or --prompt TEXT.")
    for name in ("steps", "cfg", "size", "negative_prompt"):
        if getattr(args, name) and any(axis.name == name for axis in axes):
            raise ZvlError(f"{name} is given twice. Give it once, as an axis or as a value.")
    return tuple(axes)


def asked_of(args: argparse.Namespace) -> dict[str, Any]:
    """What is asked of every cell besides the options and axes."""
    usual = _REAL if args.webui or args.z_image else _MINIATURE
    if args.size and usual is _MINIATURE:
        raise ZvlError(f"--size is for real weights and web UIs; the miniature's pictures are {usual['size']} a side.")
    asked: dict[str, Any] = {"negative_prompt": ASKED["negative_prompt"].check(args.negative_prompt)}
    for name, value in usual.items():
        given = getattr(args, name)
        try:
            asked[name] = ASKED[name].check(value if given is None else json.loads(given))
        except (ValueError, RecursionError) as error:
            said = str(error) if isinstance(error, ZvlError) else str(ASKED[name].refuse(given, "a number"))
            raise ZvlError(said.replace("Z-Image VL: ", "--")) from None
    return asked


def check(args: argparse.Namespace, axes: tuple[Axis, ...]) -> None:
    """Raise ZvlError for arguments that do not go together, before anything is opened."""
    names = [axis.name for axis in axes if axis.name in BY_NAME] + list(args.set)
    kinds = {known(name).kind for name in names}
    if names and not kinds & {"image", "conditioning"}:
        raise ZvlError(f"{names[0]} says how a reference acts, and there is none. Name some with --references FOLDER.")
    if not args.webui:
        for name in names:
            if known(name).kind in ("model", "conditioning"):
                raise ZvlError(f"{name} is for web UIs, named with --webui; weights are named with --qwen3-vl.")
    if not args.webui and not args.z_image and any(axis.name == "size" for axis in axes):
        raise ZvlError("size is for real weights and web UIs; the miniature's pictures have one size.")
    given = [flag for flag in ("webui", "dask", "workers") if getattr(args, flag)]
    if len(given) > 1:
        raise ZvlError(f"--{given[0]} and --{given[1]} are two ways to make the pictures. Name one of them.")
    weights = [flag for flag in ("z_image", "qwen3_vl", "weights") if getattr(args, flag)]
    if args.webui and weights:
        raise ZvlError(f"A web UI has weights of its own: leave out --{weights[0].replace('_', '-')}.")
    odd = [axis for axis in axes if axis.name == "size" for value in axis.values if value % 16]
    if odd or (args.size and json.loads(args.size) % 16):
        raise ZvlError("size must be a multiple of 16.")


def _judged(args: argparse.Namespace) -> bool:
    """Whether the miniature makes the pictures, whose judges know its world."""
    return not args.webui and not args.z_image


def metrics_of(args: argparse.Namespace, say: Say) -> list[measures.Metric]:
    """What is measured, those first that know most of prompts and references.

    Raises:
        ZvlError: an encoder can't be used.
    """
    found: list[measures.Metric] = []
    if _judged(args):
        from .judges import miniature

        found += miniature.metrics(args.weights or family.WEIGHTS)
    for folder in args.encoder:
        from .judges import encoders

        found += encoders.metrics(folder)
    found += measures.there(say).values()
    names = [metric.name for metric in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ZvlError(f"Two --encoder folders have one name, {plain(twice)}. Rename one of them.")
    return found


def _lines(path: str) -> list[str]:
    try:
        text = read_regular(path, _PROMPTS).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeError) else reason(error)
        raise ZvlError(f"--prompts {plain(path, 160)} can't be read ({why}).") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ZvlError(f"--prompts {plain(path, 160)} has no prompts in it. Write one a line.")
    return prompts
