"""`vision-tower`: Qwen3-VL's vision tower in a file of its own, which is all that engine splice needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import ZvlError
from .common import add_command, check_out
from .tensors import save

if TYPE_CHECKING:
    import torch

    from ..qwen3vl.checkpoint import Checkpoint

_PREFIX = "visual."


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "vision-tower",
        "write Qwen3-VL's vision tower alone, for engine splice (0.8 GB)",
        "vision-tower --model models/qwen3_vl/Qwen3-VL-4B-Instruct --out models/qwen3_vl/tower.safetensors",
    )
    parser.add_argument("--model", required=True, help="a folder or a file of Qwen3-VL, or an mmproj GGUF")
    parser.add_argument("--out", required=True, help="the .safetensors file to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_out(args.out)
    if not args.out.lower().endswith(".safetensors"):
        raise ZvlError(f"--out {args.out}: a name that ends with .safetensors is needed, so that the file is found.")
    import json

    from ..qwen3vl.files import open_checkpoint

    checkpoint = open_checkpoint(args.model)
    tensors = tower(checkpoint)
    metadata = {"config": json.dumps(checkpoint.config), "model": checkpoint.name, "zvl_ext": __version__}
    save(tensors, args.out, metadata)
    size = sum(tensor.nbytes for tensor in tensors.values())
    print(f"{args.out}: the vision tower of {checkpoint.name}, {size / 1e6:,.0f} MB. It serves engine splice.")


def tower(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The vision tower's tensors by their names in Qwen3VLModel: in the dtype that they are stored in, or in
    bfloat16 where they are quantized."""
    import torch

    own = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    by_dtype: dict[torch.dtype, list[str]] = {}
    for name, stored in checkpoint.tensors.items():
        if name.startswith(_PREFIX):
            by_dtype.setdefault(own.get(stored.dtype, torch.bfloat16), []).append(name)
    return {name: value for dtype, names in by_dtype.items() for name, value in checkpoint.read(names, dtype)}
