"""Qwen3-VL weights: where they are, what they are, how they are opened. Safetensors only, never a pickle.

Two forms: a Hugging Face folder (config.json and one or several shards), and one file as ComfyUI and Forge Neo use for
text encoders (bf16, fp16, or fp8 with scales), whose configuration is derived from the shapes of its tensors.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import ZvlError
from .reference import Reference, fitted_size
from .sequence import VisionTokens

if TYPE_CHECKING:
    import torch

WANTED = (
    "Get Qwen3-VL-4B-Instruct as the folder from Hugging Face (Qwen/Qwen3-VL-4B-Instruct, 8.9 GB), or as one file "
    "qwen3vl_4b_bf16.safetensors (8.9 GB) or qwen3vl_4b_fp8_scaled.safetensors (5.2 GB)"
)
# Depths of the vision tower in published models whose DeepStack layers do not follow from evenly spaced thirds.
_DEEPSTACK = {27: (8, 16, 24)}
_VISION_HEADS = 16  # of every published Qwen3-VL; the shapes do not tell
_PREFIXES = (
    ("model.language_model.", "language_model."),
    ("model.visual.", "visual."),
    ("model.", "language_model."),
    ("language_model.", "language_model."),
    ("visual.", "visual."),
)
_SCALES = (".weight_scale_inv", ".weight_scale", ".scale_weight")
_COMPANIONS = (*_SCALES, ".input_scale", ".scale_input", ".comfy_quant")
_FP8 = ("F8_E4M3", "F8_E5M2")
_PLAIN = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Stored:
    """One tensor in one file, known from the file's header."""

    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Checkpoint:
    """An opened set of weights; only headers have been read.

    Attributes:
        path: The folder or the file.
        name: What the panel and the infotext call it.
        config: Qwen3-VL's configuration as plain data (`text_config`, `vision_config`, token ids).
        tensors: By the name in transformers' Qwen3VLModel (`language_model.…`, `visual.…`).
        scales: fp8 scales, by the name of the tensor they belong to.
    """

    path: str
    name: str
    config: dict[str, Any]
    tensors: dict[str, Stored] = field(repr=False)
    scales: dict[str, Stored] = field(repr=False)

    @property
    def hidden_size(self) -> int:
        return self.config["text_config"]["hidden_size"]

    @property
    def layers(self) -> int:
        return self.config["text_config"]["num_hidden_layers"]

    @property
    def unit(self) -> int:
        """Side of one image token in pixels (32)."""
        vision = self.config["vision_config"]
        return vision.get("patch_size", 16) * vision.get("spatial_merge_size", 2)

    @property
    def vision_tokens(self) -> VisionTokens:
        get = self.config.get
        return VisionTokens(
            get("vision_start_token_id", VisionTokens.start), get("image_token_id", VisionTokens.image), get("vision_end_token_id", VisionTokens.end)
        )

    @property
    def stored_dtype(self) -> str:
        """How most of the weights are stored: "BF16", "F16", "F32", "F8_E4M3" or "F8_E5M2"."""
        sizes: dict[str, int] = {}
        for stored in self.tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + _count(stored.shape)
        return max(sizes, key=sizes.get)

    @property
    def files(self) -> list[str]:
        return sorted({stored.file for stored in (*self.tensors.values(), *self.scales.values())})

    @property
    def identity(self) -> tuple:
        """Changes when the weights on disk do."""
        return tuple((os.path.abspath(file), (info := os.stat(file)).st_size, info.st_mtime_ns) for file in self.files)

    @property
    def parameters(self) -> int:
        return self.count("")

    def count(self, prefix: str) -> int:
        """Parameters of the tensors below a prefix, such as `visual.`."""
        return sum(_count(stored.shape) for name, stored in self.tensors.items() if name.startswith(prefix))

    @property
    def tokenizer_folder(self) -> str:
        """Where a tokenizer would lie beside the weights."""
        return self.path if os.path.isdir(self.path) else os.path.dirname(os.path.abspath(self.path))

    def grid(self, reference: Reference, tokens: int) -> tuple[int, int]:
        """Rows and columns of image tokens that a reference becomes under a budget of tokens."""
        width, height = fitted_size(*reference.image.size, tokens, self.unit)
        return height // self.unit, width // self.unit

    def check_layer(self, layer: int) -> None:
        """Raise ZvlError unless the language model has that layer."""
        check_layer(layer, self.layers, self.name)

    def depth(self, layer: int) -> int:
        """How many layers of the language model have to run for a hidden layer.

        Raises:
            ZvlError: it has no such layer.
        """
        self.check_layer(layer)
        return self.layers + layer + 1

    def require_width(self, width: int) -> None:
        """Raise ZvlError unless the hidden states fit text embeddings of that width."""
        if self.hidden_size != width:
            size = {2048: "Qwen3-VL-2B", 2560: "Qwen3-VL-4B", 4096: "Qwen3-VL-8B"}.get(self.hidden_size, "this model")
            raise ZvlError(
                f"{self.name}: {size} is {self.hidden_size} wide, the image model's text encoder {width}. "
                + ("Choose a Qwen3-VL-4B." if width == 2560 else "Choose a Qwen3-VL of the same width.")
            )

    def read(self, names: Iterable[str], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Read tensors in the given dtype, file by file; fp8 is multiplied with its scales.

        A tensor that is stored in `dtype` stays a view of the mapped file: no second copy is made.
        """
        for name, value, scale in self.read_stored(names):
            yield name, dequantize(value, scale, dtype) if self.is_fp8(name) else value.to(dtype)

    def read_stored(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Read tensors as they are stored, views of the mapped files, with the scales of those in fp8."""
        from safetensors import SafetensorError, safe_open

        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        with contextlib.ExitStack() as stack:  # a scale may lie in another shard than its tensor
            try:
                opened = {file: stack.enter_context(safe_open(file, "pt")) for file in self.files}
            except (OSError, SafetensorError) as error:
                raise ZvlError(f"{self.name}: the weights can't be read ({error}). Download the file again.") from error
            for file, members in sorted(by_file.items()):
                for name in members:
                    value, scale = opened[file].get_tensor(self.tensors[name].key), None
                    if self.is_fp8(name) and name in self.scales:
                        scale = opened[self.scales[name].file].get_tensor(self.scales[name].key)
                        if not _scale_fits(value.shape, scale):
                            raise ZvlError(f"{self.name}: the scale of {name} does not fit it. Download the weights again.")
                    yield name, value, scale

    def is_fp8(self, name: str) -> bool:
        return self.tensors[name].dtype in _FP8


def check_layer(layer: int, layers: int, owner: str) -> None:
    """Raise ZvlError unless a model with that many layers, called `owner`, has this one."""
    if not -layers <= layer <= -1:
        raise ZvlError(f"Hidden layer {layer} does not exist: {owner} has layers -1 to -{layers}.")


_BLOCK = 128  # side of the squares that Qwen's own fp8 files have a scale for


def _has_blocks(shape: tuple[int, ...], scale: torch.Tensor) -> bool:
    return len(shape) == scale.ndim == 2 and scale.numel() > 1 and scale.shape == tuple(-(-side // _BLOCK) for side in shape)


def _scale_fits(shape: tuple[int, ...], scale: torch.Tensor) -> bool:
    return scale.numel() in (1, shape[0]) or _has_blocks(shape, scale)


def dequantize(value: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """fp8 weights times their scale: one number, one per row, or one per block of 128 × 128 (Qwen's own fp8 files)."""
    import torch

    if scale is None:
        return value.to(dtype)
    value, scale = value.float(), scale.float()
    if _has_blocks(value.shape, scale):
        scale = scale.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)[: value.shape[0], : value.shape[1]]
    else:
        scale = scale.reshape(-1, *[1] * (value.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
    return torch.mul(value, scale).to(dtype)


def find(folders: list[str]) -> dict[str, str]:
    """Weights in the given folders: name -> path. A folder with a config.json is one model, so is a .safetensors file.

    Names are relative to the folder they were found in, so that a name from a request can only ever name what is listed.
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
                found.setdefault(os.path.relpath(os.path.join(folder, file), root).replace(os.sep, "/"), os.path.join(folder, file))
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
        config = _config_from_metadata(metadata, name)
        if config is None:
            try:
                config = config_from_shapes({n: s.shape for n, s in tensors.items()}, name)
            except ZvlError:
                raise
            except (ValueError, IndexError, ZeroDivisionError) as error:
                raise ZvlError(f"{name}: its tensors do not have the shapes of a Qwen3-VL. {WANTED}.") from error
    elif os.path.exists(path):
        raise ZvlError(f"{name}: only folders and .safetensors files are opened. {WANTED}.")
    else:
        raise ZvlError(f"{name}: there is nothing at {path}. {WANTED}.")
    return Checkpoint(path, name, _complete(config, name), tensors, scales)


def _shards(folder: str, name: str) -> list[str]:
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.isfile(index):
        try:
            with open(index, encoding="utf-8") as file:
                shards = sorted(set(json.load(file)["weight_map"].values()), key=str)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ZvlError(f"{name}: model.safetensors.index.json can't be read ({error}). Download the folder again.") from error
        if any(not isinstance(shard, str) or os.path.basename(shard) != shard for shard in shards):
            raise ZvlError(f"{name}: model.safetensors.index.json names files outside the folder. Download the folder again.")
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
        if stored.dtype not in _FP8 + _PLAIN:
            raise ZvlError(f"{name}: {inner} is stored as {stored.dtype}; bf16, fp16, fp32 and scaled fp8 can be read. {WANTED}.")
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


def _config_from_metadata(metadata: dict[str, str], name: str) -> dict[str, Any] | None:
    """A `config` entry in the file's metadata (JSON of a config.json) goes before what the shapes tell."""
    if "config" not in metadata:
        return None
    with contextlib.suppress(ValueError):
        config = json.loads(metadata["config"])
        if isinstance(config, dict) and isinstance(config.get("text_config"), dict) and isinstance(config.get("vision_config"), dict):
            return config
    return None


def config_from_shapes(shapes: dict[str, tuple[int, ...]], name: str = "the file") -> dict[str, Any]:
    """Qwen3-VL's configuration from the shapes of its tensors (names as in Qwen3VLModel).

    What shapes do not tell is what all published Qwen3-VL have in common: 16 vision heads, merge 2, rope theta 5e6 and
    interleaved MRoPE in the proportion 24 : 20 : 20.

    Raises:
        ZvlError: a tensor that is needed is missing.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise ZvlError(f"{name}: the tensor {key} is missing. Download the file again.")
        return shapes[key]

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for key in shapes if (m := re.match(pattern, key))), default=-1)

    layer, block = "language_model.layers.0.", "visual.blocks.0."
    vocab, hidden = shape("language_model.embed_tokens.weight")
    head_dim = shape(layer + "self_attn.q_norm.weight")[0]
    half = head_dim // 2
    side = half * 20 // 64
    vision_hidden, channels, temporal, patch, _ = shape("visual.patch_embed.proj.weight")
    depth = count(r"visual\.blocks\.(\d+)\.")
    deepstack = count(r"visual\.deepstack_merger_list\.(\d+)\.")
    step = depth // (deepstack + 1)
    merged = shape("visual.merger.linear_fc1.weight")[1]
    return {
        "model_type": "qwen3_vl",
        "text_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": shape(layer + "mlp.gate_proj.weight")[0],
            "num_hidden_layers": count(r"language_model\.layers\.(\d+)\."),
            "num_attention_heads": shape(layer + "self_attn.q_proj.weight")[0] // head_dim,
            "num_key_value_heads": shape(layer + "self_attn.k_proj.weight")[0] // head_dim,
            "head_dim": head_dim,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [half - 2 * side, side, side]},
            "max_position_embeddings": 262144,
        },
        "vision_config": {
            "depth": depth,
            "hidden_size": vision_hidden,
            "intermediate_size": shape(block + "mlp.linear_fc1.weight")[0],
            "num_heads": _VISION_HEADS,
            "in_channels": channels,
            "patch_size": patch,
            "temporal_patch_size": temporal,
            "spatial_merge_size": round((merged / vision_hidden) ** 0.5),
            "out_hidden_size": shape("visual.merger.linear_fc2.weight")[0],
            "num_position_embeddings": shape("visual.pos_embed.weight")[0],
            "deepstack_visual_indexes": list(_DEEPSTACK.get(depth, tuple(step * (i + 1) - 1 for i in range(deepstack)))[:deepstack]),
        },
    }


def _complete(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the text configuration its rotary settings in the words of transformers 4 and of transformers 5.

    Version 5 writes `rope_parameters`, which version 4 ignores; version 4 writes `rope_theta` and `rope_scaling`.
    """
    try:
        text, vision = dict(config["text_config"]), dict(config["vision_config"])
        rope = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
        theta = rope.pop("rope_theta", None) or text.get("rope_theta") or 5e6
        rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]} | rope
        rope.pop("type", None)
        int(text["hidden_size"]), int(text["num_hidden_layers"]), int(vision["depth"])
    except (KeyError, TypeError, ValueError) as error:
        raise ZvlError(f"{name}: config.json has no usable {error}. Download the folder again.") from error
    text["rope_theta"], text["rope_scaling"] = theta, rope
    text["rope_parameters"] = {**rope, "rope_theta": theta}
    return {**config, "text_config": text, "vision_config": vision}


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
