"""`blend`: hidden states into text embeddings."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError
from ..options import BY_NAME
from .common import PUBLISHED, add_option, check_out
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
    parser = commands.add_parser("blend", help="blend hidden states into text embeddings")
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

    (text, _), (vl, metadata) = load(args.text), load(args.vl)
    check_widths(args.text, text, args.vl, vl)
    named = {name: getattr(args, name) for name in BLEND_OPTIONS}
    settings = dataclasses.replace(PUBLISHED, **named, scale_to_text=args.scale_to_text)
    statistics = None
    if conditioner.needs_statistics(settings):
        statistics = load_statistics(args.reference_stats, text.shape[1]) if args.reference_stats else measure(text)
    result = conditioner.mix(settings, text, _rows(vl, metadata, args.vl), statistics)
    save(
        {TENSOR: result.contiguous()},
        args.out,
        {name: str(getattr(settings, name)) for name in (*BLEND_OPTIONS, "scale_to_text")},
    )
    print(f"{args.out}: {result.shape[0]} tokens × {result.shape[1]}, alpha {settings.alpha:g}")


def _rows(vl: torch.Tensor, metadata: dict[str, str], path: str) -> Rows:
    """The roles of the rows that extract wrote, from the file's metadata; without any, all are taken for text rows."""
    import torch

    from ..mixing.select import Rows

    mode, rows = metadata.get("tokens", "text"), vl.shape[0]
    try:
        images, head = int(metadata.get("image_tokens", "0")), int(metadata.get("head", "3"))
        start = {"text": None, "image": 0, "image_no_markers": -1, "all": head}[mode]
    except (KeyError, ValueError) as error:
        raise ZvlError(f"{path}: the metadata is not what extract writes ({error}).") from error
    position = torch.arange(rows)
    if start is None:
        return Rows(vl, torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool), head)
    block = (position >= start) & (position < start + images + 2)
    return Rows(vl, ~block, (position > start) & (position <= start + images), head)
