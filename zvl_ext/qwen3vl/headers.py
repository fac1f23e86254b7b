"""What safetensors headers say of a Qwen3-VL: tensors by transformers' names, their forms, their scales."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ..errors import ZvlError
from .checkpoint import FP8_DTYPES, Stored

if TYPE_CHECKING:
    import torch

WANTED = (
    "Get Qwen3-VL-4B-Instruct as the folder from Hugging Face (Qwen/Qwen3-VL-4B-Instruct, 8.9 GB), or as one file "
    "qwen3vl_4b_bf16.safetensors (8.9 GB) or qwen3vl_4b_fp8_scaled.safetensors (5.2 GB)"
)
_PREFIXES = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.", "language_model."),
    ("language_model.", "language_model."),
    ("visual.", "visual."),
)
_SCALES = (".weight_scale_inv", ".weight_scale", ".scale_weight")
_COMPANIONS = (*_SCALES, ".input_scale", ".scale_input", ".comfy_quant")
_PLAIN = ("BF16", "F16", "F32")


def read_headers(files: list[str], name: str) -> tuple[dict[str, Stored], dict[str, Stored], dict[str, str]]:
    """What the headers of one model's files say: tensors and scales by their inner names, and the metadata.

    Raises:
        ZvlError: a file is not whole, a tensor's form can't be read, or it is another model.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Stored] = {}
    scales: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                metadata |= opened.metadata() or {}
                for key in opened.keys():
                    if (inner := _inner_name(key)) is None:
                        continue
                    part = opened.get_slice(key)
                    stored = Stored(file, key, tuple(part.get_shape()), part.get_dtype())
                    companion = next((c for c in _COMPANIONS if inner.endswith(c)), None)
                    if companion in _SCALES:
                        scales[inner.removesuffix(companion) + ".weight"] = stored
                    elif companion == ".comfy_quant":
                        _check_comfy_quant(opened.get_tensor(key), key, name)
                    elif companion is None:
                        tensors[inner] = stored
        except (OSError, SafetensorError) as error:
            base = os.path.basename(file)
            whole = base if name.endswith(base) else f"{name}: {base}"
            raise ZvlError(f"{whole} is not a whole safetensors file ({error}). Download it again.") from error
    for inner, stored in tensors.items():
        if stored.dtype not in FP8_DTYPES + _PLAIN:
            raise ZvlError(
                f"{name}: {inner} is stored as {stored.dtype}; bf16, fp16, fp32 and scaled fp8 can be read. {WANTED}."
            )
    if not any(n.startswith("visual.") for n in tensors) or "language_model.embed_tokens.weight" not in tensors:
        raise ZvlError(f"{name} is not a Qwen3-VL: it has no vision tower or no language model. {WANTED}.")
    return tensors, scales, metadata


def _inner_name(key: str) -> str | None:
    """The name in transformers' Qwen3VLModel for a key of either layout, None for what is not needed."""
    if key.startswith(("lm_head.", "scaled_fp8", "model.lm_head.")):
        return None  # logits are never computed
    for outer, inner in _PREFIXES:
        if key.startswith(outer):
            return inner + key.removeprefix(outer)
    return key


def _check_comfy_quant(value: torch.Tensor, key: str, name: str) -> None:
    try:
        kind = str(json.loads(bytes(value.tolist())).get("format", ""))
    except (ValueError, TypeError, AttributeError):
        kind = "unknown"
    if not kind.startswith("float8_"):
        raise ZvlError(f"{name}: {key} says {kind!r}, a quantization that can't be read. {WANTED}.")
