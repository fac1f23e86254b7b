"""`encode`: the text embeddings that `blend` takes."""

from __future__ import annotations

import argparse
from typing import Any

from .. import __version__
from ..errors import ZvlError
from .common import add_command, add_dtype, check_out, device
from .tensors import TENSOR, save


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "encode",
        "a prompt's text embeddings: what Z-Image is told by it",
        'encode --prompt "a house" --text-encoder Z-IMAGE-FOLDER --out text.safetensors',
    )
    parser.add_argument("--prompt", required=True, help="the text to encode")
    parser.add_argument(
        "--text-encoder",
        required=True,
        metavar="PATH",
        help="Z-Image's diffusers folder, or a folder or file of Qwen3-4B",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="a folder with tokenizer.json; default: the text encoder's"
    )
    parser.add_argument("--device", default="cpu", help="cpu, or a torch device such as cuda:1; default: %(default)s")
    add_dtype(parser, "float16")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    try:
        args.prompt.encode()
    except UnicodeEncodeError as error:
        raise ZvlError("--prompt is not UTF-8 text.") from error
    from ..hosts.standalone_encoder import TextEncoderFiles

    files = TextEncoderFiles(args.text_encoder, args.tokenizer or "", device(args.device), args.dtype)
    rows = files.text(args.prompt).embeddings
    metadata = {"prompt": args.prompt, "layer": "-2", "tokens": "text", "zvl_ext": __version__}
    save({TENSOR: rows.contiguous()}, args.out, metadata)
    print(f"{args.out}: {rows.shape[0]} tokens × {rows.shape[1]}")
