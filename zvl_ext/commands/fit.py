"""`fit`: a few numbers learned on a user's own pictures, for his checkpoint."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError
from ..options import Settings
from . import fit_projection
from .common import add_command, add_dtype, bar, check_out, device, given, repeatable, say, whole

if TYPE_CHECKING:
    from ..fit.gathering import Told, Wish
    from ..fit.state import Progress

PRESET = "Fill in"  # what is fitted where nothing else is said
_LOOK, _LOOKS, _PATIENCE = 10, 20, 5  # steps from look to look at least, looks at most, and those without a gain
LORA_WEIGHT = 1.0  # with a LoRA, references can be shown as strongly as the prompt
_DRAW = "fit pictures --out pictures"
_HERE, _REAL = (
    "fit {} --pictures pictures --out mine.safetensors",
    "fit {} --pictures FOLDER --z-image FOLDER --qwen3-vl PATH --out mine.safetensors",
)
_MORE = """
The last one is with the real weights; on several cards: accelerate launch -m zvl_ext fit {} ..."""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "fit",
        "learn a few numbers on your own pictures, so that the prompt keeps what it names",
        _DRAW,
        *(_HERE.format(name) for name in ("weights", "lora")),
        _REAL.format("weights"),
        more=_MORE.format("weights"),
    )
    what = parser.add_subparsers(dest="what", required=True, parser_class=type(parser))
    _add_weights(what)
    _add_lora(what)
    fit_projection.add(what)
    _add_pictures(what)


def _add_weights(what: Any) -> None:
    parser = _learning(
        what,
        "weights",
        "one weight for each head of the image model: a profile; without weights named: the miniature's",
        "the profile to write, .safetensors",
    )
    parser.add_argument("--rate", type=_above(10), default=0.05, help="learning rate; default: %(default)s")
    # So few numbers need no more: what the miniature's profile was made with, in two minutes on two cores.
    parser.set_defaults(run=run_weights, typed=functools.partial(repeatable, parser), examples=240, steps=80)


def _add_lora(what: Any) -> None:
    parser = _learning(
        what,
        "lora",
        "a LoRA with which the image model reads references better; without weights named: the miniature's",
        "the LoRA to write, .safetensors; it goes where web UIs look for LoRAs",
    )
    parser.add_argument("--rank", type=whole(1, 1024), default=16, help="the LoRA's size; default: %(default)s")
    parser.add_argument(
        "--alpha", type=_above(10**4), help="how strongly it acts: alpha divided by rank; default: the rank"
    )
    parser.add_argument(
        "--layers",
        choices=("attention", "blocks"),
        default="blocks",
        help="which layers learn: those of attention, or all of the blocks; default: %(default)s",
    )
    parser.add_argument(
        "--rate", type=_above(10), help="learning rate; default: 0.0001, on the miniature 0.003 (it is small)"
    )
    parser.set_defaults(run=run_lora, typed=functools.partial(repeatable, parser), examples=1200, steps=500)


def _learning(what: Any, name: str, about: str, out: str) -> Any:
    """A command that learns from pictures, with what all of them are told."""
    examples = (each.format(name) for each in (_HERE, _REAL))
    parser = add_command(what, name, about, *examples, more=_MORE.format(name))
    parser.add_argument(
        "--pictures",
        required=True,
        metavar="FOLDER",
        help="your pictures, each with its caption in NAME.txt beside it; Qwen3-VL describes those that have none",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help=out)
    parser.add_argument("--z-image", metavar="FOLDER", help="a diffusers folder of Z-Image; default: the miniature")
    parser.add_argument("--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one file of Qwen3-VL")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option, see `options`: how references are read, and the weight that the file is meant for",
    )
    parser.add_argument("--examples", type=whole(12, 10**6), default=600, help="to learn from; default: %(default)s")
    parser.add_argument("--steps", type=whole(1, 10**6), default=200, help="at most; default: %(default)s")
    parser.add_argument("--batch", type=whole(1, 4096), default=24, help="examples to a step; default: %(default)s")
    parser.add_argument(
        "--at-once",
        type=whole(1, 4096),
        help="of those, how many a device takes at once; default: 1, on the miniature all",
    )
    parser.add_argument("--size", type=whole(16, 2048), default=512, help="pixels, at most; default: %(default)s")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    add_dtype(parser)
    parser.add_argument(
        "--checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute activations again instead of keeping them; auto: where the image model is large",
    )
    parser.add_argument("--state", metavar="FOLDER", help="where to go on from when stopped; default: the file's, .fit")
    parser.add_argument("--anyway", action="store_true", help="write the file where nothing was gained, too")
    return parser


def _add_pictures(what: Any) -> None:
    parser = add_command(what, "pictures", "draw captioned pictures of the miniature's world, to try fitting on", _DRAW)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--count", type=whole(1, 100_000), default=240, help="default: %(default)s")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="default: %(default)s")
    parser.set_defaults(run=run_pictures)


def _above(most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= most:
            raise argparse.ArgumentTypeError(f"a number above 0, up to {most:g}, is needed, not {text!r}")
        return number

    return convert


def run_weights(args: argparse.Namespace) -> None:
    def fit(wish: Wish, told: Told) -> None:
        from ..fit.profile import fit_weights

        fit_weights(wish, args.out, args.anyway, told)

    _run(args, fit)


def run_lora(args: argparse.Namespace) -> None:
    if args.rate is None:
        args.rate = 1e-4 if args.z_image else 3e-3

    def fit(wish: Wish, told: Told) -> None:
        from ..fit.adapters import Form
        from ..fit.lora import fit_lora

        form = Form(args.rank, float(args.rank if args.alpha is None else args.alpha), args.layers)
        fit_lora(wish, form, args.out, args.anyway, told)

    _run(args, fit, weight=LORA_WEIGHT)


def _run(args: argparse.Namespace, fit: Callable[[Wish, Told], None], **usual: float) -> None:
    """Check what is asked for, and do it.

    Args:
        usual: Options that are so where nothing else is said.
    """
    check_out(args.out)
    settings = Settings.from_mapping({"preset": PRESET, **usual, **given(args.set)})
    check(settings)
    if bool(args.z_image) != bool(args.qwen3_vl):
        raise ZvlError("--z-image and --qwen3-vl go together: name both, or neither for the miniature.")
    from ..fit.gathering import Told

    try:
        fit(_wish(args, settings), Told(say, bar, _Steps(args.steps)))
    except KeyboardInterrupt:
        say("Stopped. The same command goes on where it was.")
        raise


def check(settings: Settings) -> None:
    """Raise ZvlError where settings leave a fit nothing to learn about."""
    from ..budget import inserts
    from ..conditioner import plain_picture

    if plain_picture(settings) or not inserts(settings):
        raise ZvlError(
            "Fitting is about the tokens that a reference inserts, and with these settings there are none. Leave "
            "length match at insert, token mode at all, and weight and alpha above 0."
        )
    if settings.profile:
        raise ZvlError("Fitting begins without a profile: what is learned would be about both. Leave out profile.")


def _wish(args: argparse.Namespace, settings: Settings) -> Wish:
    from ..fit.gathering import Wish
    from ..fit.loop import Schedule

    own = args.z_image is None
    more: dict[str, Any] = {}
    if own:
        from ..lab.miniature import family

        family.be_quiet()
        args.z_image, args.qwen3_vl = (os.path.join(family.WEIGHTS, name) for name in ("z-image", "qwen3-vl"))
        more = {"question": "", "prompts": family.REFERENCE_PROMPTS}
    at_once = min(args.batch, args.at_once or (args.batch if own else 1))
    every = max(_LOOK, args.steps // _LOOKS)
    # The rate falls over the last third of the steps, where most settles: who waits as long has not stopped before it.
    patience = max(_PATIENCE, -(-args.steps // (3 * every)))
    return Wish(
        args.pictures,
        args.z_image,
        args.qwen3_vl,
        args.state or os.path.splitext(args.out)[0] + ".fit",
        settings,
        Schedule(args.steps, args.batch, at_once, args.rate, every, patience, args.seed),
        args.examples,
        args.size,
        device(args.device),
        args.dtype,
        {"on": True, "off": False}.get(args.checkpointing),
        command=args.typed(args),
        **more,
    )


class _Steps:
    """A bar of the loop's steps, from where it goes on."""

    def __init__(self, steps: int):
        self._steps = steps
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        if self._bar is None:
            if progress.step:
                say(f"Going on from step {progress.step}.")
            self._bar = tqdm(desc="steps", total=self._steps, initial=progress.step, disable=None, leave=False)
        self._bar.update(progress.step - self._bar.n)
        if progress.losses:
            self._bar.set_postfix(loss=f"{progress.losses[-1]:.4f}", held_out=f"{progress.seen[progress.best]:.4f}")
        if progress.over:
            self._bar.close()


def run_pictures(args: argparse.Namespace) -> None:
    try:
        there = os.listdir(args.out) if os.path.exists(args.out) else []
    except OSError as error:
        raise ZvlError(f"--out {args.out} can't be a folder ({error.strerror}).") from error
    if there:
        raise ZvlError(f"--out {args.out} has something in it. Name a new folder.")
    from ..lab.miniature.album import write_album

    try:
        write_album(args.out, args.count, args.seed)
    except OSError as error:
        raise ZvlError(f"--out {args.out} can't be written ({error.strerror or error}).") from error
    print(f"{args.count} pictures with captions are in {args.out}.")
