"""`generate`: a picture without a web UI, with the miniature or the real weights."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from typing import Any

from ..declaration import numbered
from ..errors import ZvlError
from ..options import BY_NAME, UNITS, Settings
from ..output import written
from .common import check_out, device, given, value, whole

_SEEDS = 2**32


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "generate", help="a picture from the command line; without weights named: the miniature"
    )
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="", help="a negative prompt, for guidance above 0")
    parser.add_argument(
        "--reference",
        action="append",
        metavar="FILE",
        help="a reference image; may be given several times; without one: the prompt alone",
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option, see `options`")
    parser.add_argument("--seed", type=whole(0, _SEEDS - 1), help="default: a random one, which is told")
    parser.add_argument("--out", default="zvl.png", help="the PNG to write; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one line of JSON about the picture")
    parser.add_argument("--z-image", metavar="FOLDER", help="a diffusers folder of Z-Image; default: the miniature")
    parser.add_argument("--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one .safetensors file of Qwen3-VL")
    parser.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")
    parser.add_argument("--conditioning", metavar="FILE", help="a conditioning from `blend`, in place of the prompt's")
    parser.add_argument("--size", type=whole(64, 2048), help="width and height in pixels with the real weights")
    parser.add_argument("--steps", type=whole(1, 100), help="default: 8")
    guidance = dataclasses.replace(BY_NAME["alpha"], name="guidance", maximum=30.0)
    parser.add_argument("--guidance", type=value(guidance), help="classifier-free guidance, 0 is none")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    named = given(args.set)
    files = args.reference or []
    settings = Settings.from_mapping({**named, "enabled": bool(files)})
    from ..reference import open_file

    if len(files) > UNITS:
        raise ZvlError(f"{len(files)} references were named, a picture has {UNITS} at most.")
    references = {numbered("reference", number): open_file(file) for number, file in enumerate(files, 1)}
    if not references and named:
        raise ZvlError("--set says how a reference acts, and there is none. Name one with --reference FILE.")
    if references and args.conditioning:
        raise ZvlError("--conditioning has its reference in it already: leave out --reference.")
    try:
        from ..lab import demo
    except ImportError as error:
        raise ZvlError(f"Pictures need more packages ({error}). This installs them: python install.py demo") from error
    args.ui = True  # as for the page: no default prompt, no sheet
    demo.check(args)
    args.device = device(args.device)
    start = time.monotonic()
    weights = demo.open_weights(args)
    if args.size:
        weights.sampling["size"] = (args.size, args.size)
    seed = random.randrange(_SEEDS) if args.seed is None else args.seed  # noqa: S311
    made = _made(args, weights, dataclasses.replace(settings, **references), seed)
    _write(made.pictures[0], made.parameters[0], args.out)
    if args.json:
        said = {
            "out": args.out,
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
    print(f"{args.out}: seed {seed}, {made.tokens} tokens, {time.monotonic() - start:.0f} s")


def _made(args: argparse.Namespace, weights: Any, settings: Settings, seed: int) -> Any:
    """The picture, with the steps on standard error."""
    from tqdm import tqdm

    from ..webui.standalone import Request, make

    conditioning = None
    if args.conditioning:
        from .tensors import load

        conditioning, _ = load(args.conditioning)
    request = Request(args.prompt, settings, [seed], weights.sampling, args.negative)
    with tqdm(total=weights.sampling["steps"], unit="step", disable=None, leave=False) as bar:
        return make(weights, request, lambda done, of: bar.update(done - bar.n) and None, conditioning)


def _write(picture: Any, parameters: str, path: str) -> None:
    """A PNG with its parameters as web UIs write them."""
    from PIL import PngImagePlugin

    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", parameters)
    with written(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=text)
