"""Where Qwen3-VL's weights are and in which forms they come. Safetensors only, never a pickle.

Two forms: a Hugging Face folder (config.json and one or several shards), and one file as ComfyUI and Forge Neo use for
text encoders (bf16, fp16, or fp8 with scales), whose configuration is derived from the shapes of its tensors.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ..errors import ZvlError
from . import config as configuration
from .checkpoint import FP8_DTYPES, Checkpoint, Stored

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


def find(folders: list[str]) -> dict[str, str]:
    """Weights in the given folders: name -> path. A folder with a config.json is one model, so is a .safetensors file.

    Names are relative to the folder they were found in, so that a name from a request can only ever name what is
    listed.
    """
    found: dict[str, str] = {}
    for root in folders:
        for folder, subfolders, files in os.walk(root, followlinks=True):
            subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
            weights = sorted(f for f in files if f.endswith(".safetensors"))
            if "config.json" in files and weights and folder != root:
                found.setdefault(os.path.relpath(folder, root).replace(os.sep, "/"), folder)
                subfolders.clear()
                continue
            for file in weights:
                found.setdefault(
                    os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/"), os.path.join(folder, file)
                )
            if folder.count(os.sep) - root.count(os.sep) >= 4:
                subfolders.clear()
    return found


def open_checkpoint(path: str, name: str = "") -> Checkpoint:
    """Read the headers of a folder's shards or of one file.

    Raises:
        ZvlError: not there, not safetensors, damaged, or not a Qwen3-VL.
    """
    name = name or os.path.basename(os.path.normpath(path))
    if os.path.isdir(path):
        config_file = os.path.join(path, "config.json")
        try:
            with open(config_file, encoding="utf-8") as file:
                config = json.load(file)
        except (OSError, ValueError) as error:
            raise ZvlError(f"{name}: config.json can't be read ({error}). Download the folder again.") from error
        if not isinstance(config, dict) or config.get("model_type") != "qwen3_vl":
            kind = config.get("model_type") if isinstance(config, dict) else None
            raise ZvlError(f"{name} is not a Qwen3-VL (its config.json says {kind!r}). {WANTED}.")
        tensors, scales, _ = _headers(_shards(path, name), name)
    elif path.endswith(".safetensors"):
        tensors, scales, metadata = _headers([path], name)
        config = configuration.from_metadata(metadata, name)
        if config is None:
            try:
                config = configuration.config_from_shapes({n: s.shape for n, s in tensors.items()}, name)
            except ZvlError:
                raise
            except (ValueError, IndexError, ZeroDivisionError) as error:
                raise ZvlError(f"{name}: its tensors do not have the shapes of a Qwen3-VL. {WANTED}.") from error
    elif os.path.exists(path):
        raise ZvlError(f"{name}: only folders and .safetensors files are opened. {WANTED}.")
    else:
        raise ZvlError(f"{name}: there is nothing at {path}. {WANTED}.")
    return Checkpoint(path, name, configuration.complete(config, name), tensors, scales)


def _shards(folder: str, name: str) -> list[str]:
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.isfile(index):
        try:
            with open(index, encoding="utf-8") as file:
                shards = sorted(set(json.load(file)["weight_map"].values()), key=str)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ZvlError(
                f"{name}: model.safetensors.index.json can't be read ({error}). Download the folder again."
            ) from error
        if any(not isinstance(shard, str) or os.path.basename(shard) != shard for shard in shards):
            raise ZvlError(
                f"{name}: model.safetensors.index.json names files outside the folder. Download the folder again."
            )
    else:
        shards = sorted(f for f in os.listdir(folder) if f.endswith(".safetensors"))
    missing = [shard for shard in shards if not os.path.isfile(os.path.join(folder, shard))]
    if missing or not shards:
        raise ZvlError(f"{name}: {missing[0] if missing else 'a .safetensors file'} is missing. Finish the download.")
    return [os.path.join(folder, shard) for shard in shards]


def _headers(files: list[str], name: str) -> tuple[dict[str, Stored], dict[str, Stored], dict[str, str]]:
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
