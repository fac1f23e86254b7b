"""Weights as single files, in the layouts and the kinds of fp8 that are published."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

LAYOUTS = {
    "model.language_model + model.visual": {"language_model.": "model.language_model.", "visual.": "model.visual."},
    "model.layers + visual": {"language_model.": "model.", "visual.": "visual."},
}


def inner_state(model: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights under the names of transformers' Qwen3VLModel, without the logits' layer."""
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def in_layout(state: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """Rename the tensors to one of the layouts that single files come in."""
    renamed = {}
    for name, value in state.items():
        inner = next(prefix for prefix in LAYOUTS[layout] if name.startswith(prefix))
        renamed[LAYOUTS[layout][inner] + name.removeprefix(inner)] = value.contiguous()
    return renamed


def save_single(
    state: dict[str, torch.Tensor],
    path: Path,
    layout: str = "model.language_model + model.visual",
    metadata: dict[str, str] | None = None,
) -> Path:
    """One .safetensors file, names as in `inner_state`."""
    save_file(in_layout(state, layout), str(path), metadata)
    return path


def config_metadata(config: Qwen3VLConfig) -> dict[str, str]:
    """The `config` entry of a single file's metadata."""
    return {"config": json.dumps(config.to_dict(), default=str)}


def is_linear(name: str, value: torch.Tensor) -> bool:
    """Whether quantized files store this tensor in fp8: matrices of the language model's layers."""
    return value.ndim == 2 and name.startswith("language_model.layers.")


# How each kind of fp8 file names and shapes its scales, and what else it carries.
FP8_KINDS = ("comfy", "older", "rows", "blocks", "none")


def quantize(state: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Store the language model's matrices in fp8 e4m3 the way one kind of published file does.

    Returns:
        The tensors to save (names as in `inner_state`, plus companions), and the float64 weights they stand for.
    """
    stored, meant = {}, {}
    for name, value in state.items():
        if not is_linear(name, value):
            stored[name] = value.to(torch.bfloat16)
            meant[name] = stored[name].double()
            continue
        stem = name.removesuffix(".weight")
        if kind == "none":  # plain fp8, nothing to multiply with
            stored[name] = value.to(torch.float8_e4m3fn)
            meant[name] = stored[name].double()
            continue
        if kind == "rows":
            scale = value.abs().amax(dim=1) / 448
            spread = scale[:, None]
        elif kind == "blocks":
            rows, columns = (-(-side // 128) for side in value.shape)
            padded = torch.zeros(rows * 128, columns * 128)
            padded[: value.shape[0], : value.shape[1]] = value
            scale = padded.reshape(rows, 128, columns, 128).abs().amax(dim=(1, 3)) / 448
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: value.shape[0], : value.shape[1]]
        else:
            scale = value.abs().max() / 448
            spread = scale
        stored[name] = (value / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
        meant[name] = stored[name].double() * spread.double()
        stored[stem + {"older": ".scale_weight", "blocks": ".weight_scale_inv"}.get(kind, ".weight_scale")] = (
            scale.clone()
        )
        if kind == "older":
            stored[stem + ".scale_input"] = torch.ones(())
        else:
            stored[stem + ".input_scale"] = torch.ones(())
        if kind in ("comfy", "rows"):
            stored[stem + ".comfy_quant"] = as_bytes({"format": "float8_e4m3fn"})
    return stored, meant


def as_bytes(value: object) -> torch.Tensor:
    """JSON as a uint8 tensor, the way quantized files say what they are."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
