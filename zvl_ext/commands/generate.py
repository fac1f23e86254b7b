"""`generate`: pictures without a web UI, with the miniature or the real weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..declaration import numbered
from ..errors import ZvlError
from ..loras import named as asked_lora
from ..options import BY_NAME, UNITS, Settings
from ..output import written
from . import folder
from .common import add_command, add_weights, check_out, device, given, value, whole

if TYPE_CHECKING:
    from ..reference import Reference

_SEEDS = 2**32
_OUT = "zvl.png"


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "generate",
        "a picture from the command line; without weights named: the miniature",
        'generate --prompt "a large cross" --reference picture.png --set weight=0.6 --out cross.png',
        'generate --prompt "a large cross" --references pictures --out made',
        'generate --prompt "a house" --reference picture.png --z-image FOLDER --qwen3-vl PATH',
    )
    parser.add_argument("--prompt", help="may be left out with --conditioning")
    parser.add_argument("--negative", default="", help="a negative prompt, for guidance above 0")
    parser.add_argument(
        "--reference",
        action="append",
        metavar="FILE",
        help="a reference image; may be given several times; without one: the prompt alone",
    )
    parser.add_argument(
        "--references", metavar="FOLDER", help="one picture for each picture of a folder; --out names a folder then"
    )
    parser.add_argument("--force", action="store_true", help="with --references: make pictures again that are there")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option, see `options`")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a LoRA of the image model; may be given several times",
    )
    parser.add_argument("--seed", type=whole(0, _SEEDS - 1), help="default: a random one, which is told")
    parser.add_argument("--out", default=_OUT, help="the PNG to write; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one line of JSON about the picture")
    add_weights(parser)
    parser.add_argument(
        "--conditioning",
        metavar="FILE",
        help="a conditioning from --save-conditioning or `blend`, in place of the prompt and all references",
    )
    parser.add_argument(
        "--save-conditioning", metavar="FILE", help="write what the picture was conditioned on, for --conditioning"
    )
    parser.add_argument("--size", type=whole(64, 2048), help="width and height in pixels with the real weights")
    parser.add_argument("--steps", type=whole(1, 100), help="default: 8")
    guidance = dataclasses.replace(BY_NAME["alpha"], name="guidance", maximum=30.0)
    parser.add_argument("--guidance", type=value(guidance), help="classifier-free guidance, 0 is none")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make what is asked for.

    Returns:
        The exit code: 1 where some of a folder's references could not be used.
    """
    named = given(args.set)
    check(args, named)
    pictures = folder.pictures(args.references, args.out) if args.references else {}
    from ..reference import open_file

    references: dict[str, Any] = {
        numbered("reference", number): open_file(file) for number, file in enumerate(args.reference or [], 1)
    }
    settings = Settings.from_mapping({**named, "enabled": bool(references or args.references)})
    settings = dataclasses.replace(settings, **references)
    if args.save_conditioning and any(unit.negative for unit in settings.units.values()):
        raise ZvlError(
            "A conditioning file holds what acts with the prompt; a negative reference acts with the negative one. "
            "Leave out --save-conditioning, or switch Negative reference off."
        )
    loras = [asked_lora(text) for text in args.lora]
    weights = opened(args)
    weights.model.add_loras(loras)
    args.loras = "".join(f" {lora.written}" for lora in loras if lora.strength)
    seed = random.randrange(_SEEDS) if args.seed is None else args.seed  # noqa: S311
    args.learned = {}
    if not args.conditioning:
        from ..webui.standalone import learned

        settings, args.learned = learned(weights, settings, paths=True)

    if not args.references:
        _make(args, weights, settings, named, seed, args.out)
        return 0

    def make(picture: Reference, out: str) -> None:
        _make(args, weights, dataclasses.replace(settings, reference=picture), named, seed, out)

    return folder.each(pictures, args.force, make)


def check(args: argparse.Namespace, named: dict[str, Any]) -> None:
    """Raise ZvlError for arguments that do not go together, before anything is read."""
    if args.prompt is None and not args.conditioning:
        raise ZvlError("--prompt is needed (see python -m zvl_ext generate --help).")
    if len(args.reference or []) > UNITS:
        raise ZvlError(f"{len(args.reference)} references were named, a picture has {UNITS} at most.")
    read = [flag for flag in ("reference", "references") if getattr(args, flag)]
    if len(read) > 1:
        raise ZvlError("--references makes a picture for each of a folder's references: leave out --reference.")
    if read and args.conditioning:
        raise ZvlError(f"--conditioning has its reference in it already: leave out --{read[0]}.")
    if named and not read and not args.conditioning:
        raise ZvlError("--set says how a reference acts, and there is none. Name one with --reference FILE.")
    if args.references:
        if args.save_conditioning:
            raise ZvlError("--save-conditioning writes one file: name one --reference instead of --references.")
        if args.out == _OUT:
            raise ZvlError("--references makes several pictures: name the folder for them with --out FOLDER.")
        return
    if args.force:
        raise ZvlError("--force is for --references; a single picture is always made.")
    check_out(args.out)
    if args.save_conditioning:
        check_out(args.save_conditioning, "--save-conditioning")


def opened(args: argparse.Namespace) -> Any:
    """The weights that pictures are made with."""
    try:
        from ..lab import demo
    except ImportError as error:
        raise ZvlError(f"Pictures need more packages ({error}). This installs them: python install.py demo") from error
    args.ui = True  # as for the page: no default prompt, no sheet
    demo.check(args)
    args.device = device(args.device)
    weights = demo.open_weights(args)
    if args.size:
        weights.sampling["size"] = (args.size, args.size)
    return weights


def _make(
    args: argparse.Namespace, weights: Any, settings: Settings, named: dict[str, Any], seed: int, out: str
) -> None:
    """One picture, with what is said of it."""
    start = time.monotonic()
    made = _made(args, weights, settings, named, seed)
    _write(made.pictures[0], made.parameters[0], out)
    if args.save_conditioning:
        from ..conditioning_file import save

        save(made.conditioning, args.save_conditioning, made.about)
    if args.json:
        said = {
            "out": out,
            "seed": seed,
            "settings": made.settings,
            "infotext": made.parameters[0],
            "tokens": made.tokens,
            "seconds": round(time.monotonic() - start, 2),
            "notes": made.notes,
        }
        print(json.dumps(said, ensure_ascii=False))
        return
    for line in made.notes:
        print(line)
    print(f"{out}: seed {seed}, {made.tokens} tokens, {time.monotonic() - start:.0f} s")


def _made(args: argparse.Namespace, weights: Any, settings: Settings, named: dict[str, Any], seed: int) -> Any:
    """The picture, with the steps on standard error."""
    from tqdm import tqdm

    from ..webui.standalone import Request, make

    prompt, saved = args.prompt, None
    notes: list[str] = []
    if args.conditioning:
        from ..conditioning_file import load

        saved, notes = load(args.conditioning).changed(named)
        notes += saved.told_prompt([] if prompt is None else [prompt])
        prompt = saved.about.prompt or prompt or ""
    whole = bool(args.save_conditioning)
    more = {**args.learned, "loras": args.loras}
    request = Request(prompt, settings, [seed], weights.sampling, args.negative, whole, **more)
    steps = weights.sampling["steps"]
    with tqdm(total=steps, unit="step", disable=True if args.references else None, leave=False) as bar:
        made = make(weights, request, _moving(bar), saved)
    made.notes[:0] = notes
    return made


def _moving(bar: Any) -> Callable[[int, int], None]:
    def moved(done: int, of: int) -> None:
        bar.update(done - bar.n)

    return moved


def _write(picture: Any, parameters: str, path: str) -> None:
    """A PNG with its parameters as web UIs write them."""
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters)
    with written(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=text)
