"""Where Qwen3-VL's weights are and in which forms they come. Safetensors only, never a pickle.

Two forms: a Hugging Face folder (config.json and one or several shards), and one file as ComfyUI and Forge Neo use for
text encoders (bf16, fp16, or fp8 with scales), whose configuration is derived from the shapes of its tensors.
"""

from __future__ import annotations

import json
import os

from ..errors import ZvlError
from . import config as configuration
from .checkpoint import Checkpoint
from .headers import WANTED, read_headers


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
        tensors, scales, _ = read_headers(_shards(path, name), name)
    elif path.endswith(".safetensors"):
        tensors, scales, metadata = read_headers([path], name)
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
