"""`blend`: hidden states into text embeddings."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError, shown
from ..options import BY_NAME
from .common import PUBLISHED, add_command, add_option, check_out
from .tensors import TENSOR, check_widths, load, load_statistics, save

if TYPE_CHECKING:
    import torch

    from ..mixing.select import Rows

BLEND_OPTIONS = (
    "alpha",
    "normalization",
    "outlier_repair",
    "outlier_threshold",
    "outlier_direction",
    "length_match",
    "blend_mode",
    "block_place",
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "blend",
        "blend hidden states into text embeddings",
        "blend --text text.safetensors --vl vl.safetensors --alpha 0.3 --out mixed.safetensors",
    )
    parser.add_argument("--text", required=True, help="text embeddings, .safetensors")
    parser.add_argument("--vl", required=True, help="hidden states from extract, .safetensors")
    for name in BLEND_OPTIONS:
        add_option(parser, name)
    parser.add_argument(
        "--scale-to-text", action=argparse.BooleanOptionalAction, default=True, help=BY_NAME["scale_to_text"].help
    )
    parser.add_argument(
        "--reference-stats", help="the text encoder's statistics, .safetensors; default: measured on --text"
    )
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    from .. import conditioner
    from ..mixing.statistics import measure

    (text, of_text), (vl, metadata) = load(args.text), load(args.vl)
    check_widths(args.text, text, args.vl, vl)
    rows = _rows(vl, metadata, args.vl)
    named = {name: getattr(args, name) for name in BLEND_OPTIONS}
    settings = dataclasses.replace(PUBLISHED, **named, scale_to_text=args.scale_to_text)
    statistics = None
    if conditioner.needs_statistics(settings):
        statistics = load_statistics(args.reference_stats, text.shape[1]) if args.reference_stats else measure(text)
    result = conditioner.mix(settings, text, rows, statistics)
    save(
        {TENSOR: result.contiguous()},
        args.out,
        {name: str(getattr(settings, name)) for name in (*BLEND_OPTIONS, "scale_to_text")},
    )
    print(f"{args.out}: {result.shape[0]} tokens × {result.shape[1]}, alpha {settings.alpha:g}")
    prompts = of_text.get("prompt"), metadata.get("prompt")
    if None not in prompts and prompts[0] != prompts[1]:
        print(f"The files are of different prompts: {shown(prompts[0])} and {shown(prompts[1])}.")


def _rows(vl: torch.Tensor, metadata: dict[str, str], path: str) -> Rows:
    """The roles of the rows that extract wrote, from the file's metadata; without any, all are taken for text rows."""
    import torch

    from ..mixing.select import Rows

    mode, rows = metadata.get("tokens", "text"), vl.shape[0]
    head = _count(metadata, "head", 3, path)
    # Where the vision block's first marker is, and how many markers are there; the rows alone begin behind it.
    blocks = {"text": None, "image": (0, 2), "image_no_markers": (-1, 0), "all": (head, 2)}
    if mode not in blocks:
        raise ZvlError(f"{path}: the metadata is not what extract writes (tokens {shown(mode)}).")
    position, none = torch.arange(rows), torch.zeros(rows, dtype=torch.bool)
    if (block := blocks[mode]) is None:
        return Rows(vl, ~none, none, head)
    start, markers = block
    images = _count(metadata, "image_tokens", 0 if mode == "all" else max(rows - markers, 0), path)
    if max(start, 0) + markers + images > rows:
        raise ZvlError(f"{path}: the metadata is not what extract writes ({images} image tokens in {rows} rows).")
    last = start + images
    return Rows(vl, (position < start) | (position > last + 1), (position > start) & (position <= last), head)


def _count(metadata: dict[str, str], name: str, default: int, path: str) -> int:
    """A number of rows from a file's metadata."""
    text = metadata.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ZvlError(f"{path}: the metadata is not what extract writes ({name} {shown(text)}).")
    return int(text)
