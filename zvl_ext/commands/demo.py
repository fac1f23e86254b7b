"""`demo`: a contact sheet, or a page to try the product in."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..errors import ZvlError
from ..options import BY_NAME
from .common import add_command, check_out, device, value, whole


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "demo",
        "a contact sheet of one reference and one prompt over several settings, or a page to try the product in",
        "demo --out sheet.png",
        "demo --ui",
        'demo --z-image FOLDER --qwen3-vl PATH --prompt "a house at the sea" --reference picture.png',
    )
    parser.add_argument("--out", default="zvl-demo.png", help="the PNG to write; default: %(default)s")
    parser.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="default: %(default)s")
    parser.add_argument("--prompt", help="default: one of the miniature's world")
    parser.add_argument(
        "--reference", metavar="FILE", help="the reference image; default: one of the miniature's world"
    )
    parser.add_argument(
        "--z-image", metavar="FOLDER", help="a diffusers folder of Z-Image-Turbo; default: the miniature"
    )
    parser.add_argument(
        "--qwen3-vl",
        metavar="PATH",
        help="a Hugging Face folder or one .safetensors file of Qwen3-VL; default: the miniature",
    )
    parser.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")
    parser.add_argument(
        "--size", type=whole(64, 2048), help="width and height in pixels with the real weights; default: 1024"
    )
    parser.add_argument("--steps", type=whole(1, 100), help="default: 8")
    guidance = dataclasses.replace(BY_NAME["alpha"], name="guidance", maximum=30.0)
    parser.add_argument(
        "--guidance",
        type=value(guidance),
        help="classifier-free guidance, 0 is none; default: what the weights are made for",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    parser.add_argument("--ui", action="store_true", help="open a page with the web UI's accordion instead")
    parser.add_argument("--port", type=whole(1, 65535), help="of the page; default: the first free one from 7860")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if not args.ui:
        check_out(args.out)
    try:
        from ..lab import demo
        from ..reference import open_file

        args.device = device(args.device)
        demo.check(args)
        reference = open_file(args.reference) if args.reference else None
        if args.ui:
            from ..webui import page

            page.serve(page.build(demo.open_weights(args), args.prompt, args.seed, reference), args.port)
        else:
            from ..lab import demo_sheet

            demo_sheet.write_sheet(args, reference)
    except ImportError as error:
        raise ZvlError(
            f"The demo needs more packages ({error}). This installs them: python install.py "
            f"demo{' --ui' if args.ui else ''}"
        ) from error
