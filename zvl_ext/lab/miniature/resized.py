"""The miniature's Qwen3-VL in another width: what stands for Qwen3-VL-2B and -8B where projections are tried.

A residual stream may be turned: what writes into it is multiplied with an orthonormal basis, what reads from it with
the transpose, and RMSNorm's own weights go into the matrices behind it, because they are about single dimensions. In a
wider stream all is there as it was, turned, so nothing but the width differs. In a narrower one only the directions
that the weights write most into are left: it is another model, and a worse one.
"""

from __future__ import annotations

import json
import math
import os
import shutil

import torch

from . import family

_WRITES = ("o_proj.weight", "down_proj.weight", "linear_fc2.weight", "linear_fc2.bias")
_READS = {
    "input_layernorm.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "post_attention_layernorm.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
}
_LANGUAGE = "model.language_model."
_EMBEDDING, _NORM, _HEAD = _LANGUAGE + "embed_tokens.weight", _LANGUAGE + "norm.weight", "lm_head.weight"


def write_resized(out: str, width: int, seed: int = 0, folder: str = family.WEIGHTS) -> None:
    """Write the miniature's Qwen3-VL in another width as a Hugging Face folder.

    Args:
        out: The folder to make.
        seed: Of the turn.
        folder: The miniature's weights.
    """
    from safetensors.torch import load_file, save_file

    source = os.path.join(folder, "qwen3-vl")
    os.makedirs(out, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(os.path.join(source, name), os.path.join(out, name))
    tensors = {name: value.double() for name, value in load_file(os.path.join(source, "model.safetensors")).items()}
    made = _resized(tensors, _basis(tensors, width, seed))
    stored = {name: value.float().contiguous() for name, value in made.items()}
    save_file(stored, os.path.join(out, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    text = config["text_config"]
    text["rms_norm_eps"] *= text["hidden_size"] / width
    text["hidden_size"] = config["vision_config"]["out_hidden_size"] = width
    config["tie_word_embeddings"] = text["tie_word_embeddings"] = False
    config["dtype"] = "float32"
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)


def _basis(tensors: dict[str, torch.Tensor], width: int, seed: int) -> torch.Tensor:
    """Orthonormal, [width, hidden]: by its columns where it is wider than the model, by its rows where narrower."""
    written = [value if value.ndim == 2 else value[:, None] for name, value in tensors.items() if _writes(name)]
    columns = torch.cat([tensors[_EMBEDDING].T, *written], dim=1)
    directions = torch.linalg.svd(columns, full_matrices=False)[0].T  # the most written into first
    kept = directions[:width]
    turn = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(turn)[0][:, : len(kept)] @ kept


def _writes(name: str) -> bool:
    return name.endswith(_WRITES) and ("language_model" in name or "merger" in name)


def _resized(tensors: dict[str, torch.Tensor], basis: torch.Tensor) -> dict[str, torch.Tensor]:
    width, hidden = basis.shape
    less = math.sqrt(hidden / width)  # RMSNorm divides by the mean of the squares: here over other dimensions
    made = {name: basis @ value if _writes(name) else value for name, value in tensors.items()}
    for name, norm in tensors.items():
        for ending, readers in _READS.items():
            if name.endswith(ending):
                layer = name.removesuffix(ending)
                made |= {layer + each: tensors[layer + each] * norm @ basis.T * less for each in readers}
                made[name] = torch.ones(width, dtype=norm.dtype)
    made[_EMBEDDING] = tensors[_EMBEDDING] @ basis.T
    made[_HEAD] = tensors[_EMBEDDING] * tensors[_NORM] @ basis.T * less
    made[_NORM] = torch.ones(width, dtype=basis.dtype)
    return made
