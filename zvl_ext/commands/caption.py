"""`caption`: Qwen3-VL describes a picture, word by word on the terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from typing import Any

from ..caption import LANGUAGES, LENGTHS, Wish, describe
from ..errors import ZvlError
from .common import add_command, add_dtype, add_option, device


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "caption",
        "describe a picture in words; without weights named: the miniature",
        "caption picture.png",
        "caption picture.png --qwen3-vl models/qwen3_vl/Qwen3-VL-4B-Instruct --length short",
    )
    parser.add_argument("image", help="the picture, a file")
    parser.add_argument("--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one file of Qwen3-VL")
    parser.add_argument("--length", choices=LENGTHS, default=Wish.length, help="default: %(default)s")
    parser.add_argument(
        "--language", default=Wish.language, help=f"{', '.join(LANGUAGES)}, or another; default: %(default)s"
    )
    parser.add_argument("--instruction", default="", help="what to ask instead of a description for a prompt")
    add_option(parser, "reference_tokens")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="a folder with tokenizer.json; default: the model's")
    parser.add_argument("--device", default="auto", help="auto, cpu, or a torch device such as cuda:1")
    add_dtype(parser, "float16")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end instead")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe the picture; what Ctrl-C leaves of it is kept.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.
    """
    wish = Wish(args.length, args.language, args.instruction)
    path, question = args.qwen3_vl, None
    if path is None:
        path, question = _miniature(args)
    from ..qwen3vl.files import open_checkpoint
    from ..reference import open_file

    reference, checkpoint = open_file(args.image), open_checkpoint(path)
    checkpoint.require_words()

    from ..hosts.standalone import StandaloneExtractor
    from ..qwen3vl.tokenizer import tokenizer

    words = tokenizer(args.tokenizer or checkpoint.tokenizer_folder)
    describer = StandaloneExtractor(checkpoint, device(args.device), args.dtype)
    pieces: list[str] = []

    def on_text(piece: str) -> None:
        pieces.append(piece)
        if not args.json:
            sys.stdout.write(piece)
            sys.stdout.flush()

    ended = "stopped"
    with contextlib.suppress(KeyboardInterrupt):
        ended = describe(describer, words, reference, wish, args.reference_tokens, on_text, question=question).ended
    told = {"caption": "".join(pieces), "ended": ended, "model": checkpoint.name, "reference": reference.digest}
    print(json.dumps(told, ensure_ascii=False) if args.json else "")
    return 130 if ended == "stopped" else 0


def _miniature(args: argparse.Namespace) -> tuple[str, str]:
    """Its Qwen3-VL, and what that is asked: it has learned to describe and knows no instructions."""
    if args.instruction or args.language != Wish.language:
        raise ZvlError("The miniature knows no instructions and English alone. Name a Qwen3-VL with --qwen3-vl PATH.")
    from ..lab.miniature import family

    args.reference_tokens = min(args.reference_tokens, family.GRID**2)
    return os.path.join(family.WEIGHTS, "qwen3-vl"), ""
