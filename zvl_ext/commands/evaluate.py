"""`evaluate`: every way of conditioning, measured on the miniature family."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_command, whole


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "evaluate",
        "measure every way of conditioning on the miniature family: tables, plots and verdicts",
        "evaluate --quick --out evidence",
        "evaluate --pairs 50",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="where results.json, evidence.md and the plots go; default: evidence beside the weights",
    )
    parser.add_argument(
        "--pairs",
        type=whole(2, 10_000),
        help="pairs of the main part; the other parts take fewer in proportion; default: 200",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few pairs, in about two minutes: numbers with wide intervals"
    )
    parser.add_argument("--workers", type=whole(1, 64), help="processes; default: one for each core, at most 8")
    parser.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ..lab.evaluation import run
    from ..lab.evaluation.experiments import QUICK, Plan
    from ..lab.miniature import family

    plan = QUICK if args.quick else Plan()
    plan = plan.of(args.pairs) if args.pairs else plan
    run.run(args.weights or family.WEIGHTS, args.out, plan, args.workers, tqdm.write)
