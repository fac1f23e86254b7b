"""A step of fitting at Z-Image's real width with fewer blocks and random weights, as a script of its own:

    python tests/support/fitting.py --side 512 --rows 384 --blocks 2 3

For each number of main blocks (besides one refiner of each kind) it prints, as JSON, the seconds of a forward pass and
of one with its gradients, with gradient checkpointing, and the bytes that torch keeps for them. What one block costs is
the difference; 30 + 4 of them are the real model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from diffusers import ZImageTransformer2DModel

from zvl_ext.conditioning import Part, joined
from zvl_ext.hosts.standalone_learning import learning
from zvl_ext.weighting import Weighting

WIDTH, HEADS, HIDDEN = 3840, 30, 2560


def image_model(blocks: int) -> torch.nn.Module:
    torch.set_default_dtype(torch.bfloat16)
    made = ZImageTransformer2DModel(
        n_layers=blocks, n_refiner_layers=1, dim=WIDTH, n_heads=HEADS, n_kv_heads=HEADS, cap_feat_dim=HIDDEN
    )
    torch.set_default_dtype(torch.float32)
    made.requires_grad_(False).enable_gradient_checkpointing()
    return made


def step(model: torch.nn.Module, side: int, rows: int) -> dict[str, float]:
    tables = [torch.zeros(len(blocks), HEADS, requires_grad=True) for blocks in (model.layers, model.context_refiner)]
    block = Part(Weighting(0.5), block=torch.randn(rows // 2, HIDDEN), counts=torch.ones(rows // 2))
    wanted = [joined(torch.randn(rows - rows // 2, HIDDEN), (block,), 0, torch.bfloat16)]
    latents, at = [torch.randn(16, 1, side // 8, side // 8).bfloat16()], torch.tensor([0.5])
    kept: dict[int, int] = {}
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    begun = time.monotonic()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), learning(model, wanted, [0.5], *tables):
        made = model(latents, at, [each.rows for each in wanted], return_dict=False)[0]
        forward = time.monotonic() - begun
        between = sum(kept.values())
        made[0].float().square().mean().backward()
    return {"forward": forward, "whole": time.monotonic() - begun, "kept": between}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--rows", type=int, default=384, help="of the conditioning")
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for blocks in args.blocks:
        model = image_model(blocks)
        parameters = sum(each.numel() for each in model.parameters())
        print(json.dumps({"blocks": blocks, "parameters": parameters} | step(model, args.side, args.rows)), flush=True)


if __name__ == "__main__":
    main()
