"""`benchmark`: cost in time and memory beside the naive way."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .common import add_command, whole


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "benchmark",
        "what a reference image costs in time and memory, beside the naive way; on random weights",
        "benchmark",
        "benchmark --full --work weights",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="the real sizes: 9 GB on disk, 16 GB of memory and many minutes; default: a quarter of the widths",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--repetitions",
        type=whole(1, 100),
        default=3,
        help="of each measurement; the medians are told; default: %(default)s",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="where the random weights are written, or used again, and stay; default: a temporary folder",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..lab.benchmark import run, size

    report = run.run(size.FULL if args.full else size.SMALL, args.repetitions, args.work)
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else run.table(report))
