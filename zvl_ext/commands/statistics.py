"""`statistics`: how far hidden states are from text embeddings."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .. import __version__
from .common import check_out
from .tensors import check_widths, load, save


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("statistics", help="how far hidden states are from text embeddings")
    parser.add_argument("--text", required=True, nargs="+", help="text embeddings of one or more prompts, .safetensors")
    parser.add_argument("--vl", required=True, help="hidden states from extract, .safetensors")
    parser.add_argument(
        "--reference-out", help="also write the text embeddings' statistics here, for blend --reference-stats"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.reference_out:
        check_out(args.reference_out, "--reference-out")
    import torch

    from ..mixing.statistics import compare, measure_all

    texts = [load(path)[0] for path in args.text]
    vl, metadata = load(args.vl)
    for path, text in zip(args.text, texts):
        check_widths(path, text, args.vl, vl)
    # Image positions never hold position 0, the attention sink of a text sequence.
    holds_first = metadata.get("tokens", "text") in ("text", "all")
    whole = compare(torch.cat(texts), vl)
    inner = compare(torch.cat([text[1:] for text in texts]), vl[1:] if holds_first else vl)
    if args.reference_out:
        reference = measure_all(texts)
        tensors = {
            "per_dim_mean": reference.per_dim_mean,
            "per_dim_std": reference.per_dim_std,
            "global_std": torch.tensor(reference.global_std),
        }
        save(tensors, args.reference_out, {"zvl_ext": __version__})
    if args.json:
        result = {"with_position_0": whole, "without_position_0": inner, "vl_holds_position_0": holds_first}
        print(json.dumps(result, indent=2))
        return
    for title, part in (("with position 0", whole), ("without position 0", inner)):
        worst = ", ".join(f"{dimension}: {ratio:.3g}x" for dimension, ratio in part["worst_dimensions"])
        print(f"{title} ({part['text_tokens']} text tokens, {part['vl_tokens']} vl tokens)")
        print(f"  global std            text {part['text_std']:.4g}, vl {part['vl_std']:.4g}")
        print(f"  per-dim correlation   {part['correlation']:.4f}")
        print(f"  std ratio vl/text     median {part['median_ratio']:.3g}x, worst {part['worst_ratio']:.4g}x ({worst})")
        print(f"  over 10x              {part['outliers']} dimensions")
