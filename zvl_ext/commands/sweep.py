"""`sweep`: pictures over all values of some options, measured, with a report."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import ZvlError
from . import folder
from .common import add_command, add_weights, device, given, whole

_SEEDS = 2**32
_EXAMPLE = (
    "sweep --axis weight=0:1:0.2 --axis hidden_layer=-2,-6,-8 --references pictures --prompts prompts.txt --out sweep"
)
_MORE = """
makes a picture for each weight, layer, reference, prompt and seed with the miniature, and writes sweep/report.html.
Values stand with commas between them, numbers also as FIRST:LAST:STEP; * stands for all choices; a value with a comma
in it stands in double quotes: --axis 'preset="Research, all tokens",Balanced'. Axes are all options (python -m zvl_ext
options), also those of further references (weight_2), and prompt, negative_prompt, seed, steps, cfg and size.

Real weights:  --z-image FOLDER --qwen3-vl PATH
Web UIs:       --webui http://127.0.0.1:7860 --webui http://192.168.1.7:7860    (each started with --api)
Dask:          --dask tcp://127.0.0.1:8786    (dask worker ... --nthreads 1 --resources "GPU=1")

Run again, the same command goes on where it was: a finished cell is never made twice."""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "sweep",
        "pictures over all values of some options, measured, with a report; on one machine or many",
        _EXAMPLE,
        more=_MORE,
    )
    more: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--axis", **more, metavar="NAME=VALUES", help="what to go through; may be given several times")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where pictures, table and report go")
    parser.add_argument("--prompt", **more, metavar="TEXT", help="a prompt; may be given several times")
    parser.add_argument("--prompts", metavar="FILE", help="prompts, one a line")
    parser.add_argument("--reference", **more, metavar="FILE", help="a reference; may be given several times")
    parser.add_argument("--references", metavar="FOLDER", help="all pictures of a folder as references")
    parser.add_argument("--seeds", type=whole(1, 10_000), default=1, help="pictures of each cell; default: 1")
    parser.add_argument("--seed", type=whole(0, _SEEDS - 1), default=0, help="the first of them; default: 0")
    parser.add_argument("--set", **more, metavar="NAME=VALUE", help="an option in all cells, see `options`")
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="in all cells; acts with --cfg above 1")
    parser.add_argument("--steps", help="default: 8")
    parser.add_argument("--cfg", help="guidance as web UIs count it, 1 is none; default: as the weights are used")
    parser.add_argument("--size", help="width and height in pixels; default: as the weights are used")
    parser.add_argument("--sample", type=whole(1, 10**9), help="only so many cells of the grid, drawn at random")
    parser.add_argument("--sample-seed", type=whole(0, _SEEDS - 1), default=0, help="of that draw; default: 0")
    parser.add_argument("--webui", **more, metavar="URL", help="a running web UI; may be given several times")
    parser.add_argument("--dask", metavar="ADDRESS", help="a Dask scheduler")
    parser.add_argument("--workers", type=whole(1, 64), help="processes; default: one a core, with real weights one")
    add_weights(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    parser.add_argument(
        "--encoder",
        **more,
        metavar="FOLDER",
        help="a CLIP, SigLIP or DINOv2 folder to measure with; several may be given",
    )
    parser.add_argument("--yes", action="store_true", help="make very many cells without being asked")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make what is asked for.

    Returns:
        The exit code: 1 where some cells could not be made.
    """
    from ..lab.sweep import command

    args.set = given(args.set)
    if args.references:
        args.reference = [*args.reference, *folder.listed(args.references)]
    if args.device != "auto" and not (args.webui or args.dask):
        device(args.device)
    try:
        done = command.sweep(args, say)
    except ImportError as error:
        raise ZvlError(
            f"A sweep needs more packages ({error}): python -m pip install scikit-image diffusers"
        ) from error
    return 1 if done.failed else 0


def say(line: str) -> None:
    """Tell something while the bar is shown."""
    from tqdm import tqdm

    tqdm.write(f"zvl_ext: {line}", file=sys.stderr)
