"""Qwen3-VL in GGUF, as llama.cpp writes it: the language model in one file, the vision tower (`mmproj`) in another.

Names and what is done to the tensors: llama.cpp's `conversion/qwen3vl.py` and gguf-py's `tensor_mapping.py`. The rows
of the attention's queries and keys stay in transformers' order (they are permuted for Llama only).
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from ..errors import ZvlError
from . import ggml
from .checkpoint import Stored, readable_shapes
from .config import config_from_shapes
from .forms import FORMS
from .gguf_header import Entry, read_header
from .pieces import Pieces
from .wanted import WANTED

Tensors = dict[str, Stored]

_PROJECTOR = "qwen3vl_merger"
_LANGUAGE = "qwen3vl"
_NAMES = {
    "token_embd": "language_model.embed_tokens",
    "output_norm": "language_model.norm",
    "output": "lm_head",
    "v.position_embd": "visual.pos_embed",
    "v.patch_embd": "visual.patch_embed.proj",
    "v.post_ln": "visual.merger.norm",
    "mm.0": "visual.merger.linear_fc1",
    "mm.2": "visual.merger.linear_fc2",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_VISION_LAYER = {
    "ln1": "norm1",
    "ln2": "norm2",
    "attn_qkv": "attn.qkv",
    "attn_out": "attn.proj",
    "ffn_up": "mlp.linear_fc1",
    "ffn_down": "mlp.linear_fc2",
}
_DEEPSTACK = {"norm": "norm", "fc1": "linear_fc1", "fc2": "linear_fc2"}


class GGUF:
    """One GGUF file of a Qwen3-VL.

    Attributes:
        values: The entries of its header, by their keys.
        tensors: By the name in transformers' Qwen3VLModel.
        vision: Whether it is the vision tower; otherwise it is the language model.

    Raises:
        ZvlError: it is not a whole GGUF file, or another model's, or the `gguf` package is missing.
    """

    def __init__(self, path: str, name: str):
        with Pieces(path, name) as pieces:
            try:
                self.values, entries = read_header(pieces)
                _check_whole(entries, pieces.version[0])
            except ValueError as error:
                if isinstance(error, ZvlError):
                    raise
                base = os.path.basename(path)
                whole = base if name.endswith(base) else f"{name}: {base}"
                raise ZvlError(f"{whole} is not a whole GGUF file ({error}). Download it again.") from error
            version = pieces.version
        architecture = self.values.get("general.architecture")
        projector = self.values.get("clip.vision.projector_type") or self.values.get("clip.projector_type")
        self.vision = projector == _PROJECTOR
        if not self.vision and architecture != _LANGUAGE:
            kind = projector or architecture
            said = f" (it is {kind!r})" if isinstance(kind, str) and kind.isprintable() and len(kind) < 40 else ""
            raise ZvlError(f"{name} is not a Qwen3-VL{said}. {WANTED}.")
        ggml.package(name)
        self.deepstack = sorted({int(m[1]) for key in entries if (m := re.match(r"v\.deepstack\.(\d{1,4})\.", key))})
        found = {
            own: _stored(path, key, own, entry, version)
            for key, entry in entries.items()
            if (own := self._inner(key)) is not None
        }
        self.tensors = found

    def _inner(self, key: str) -> str | None:
        """The name in Qwen3VLModel of a tensor; None for what it has no place for."""
        stem, _, leaf = key.rpartition(".")
        if key == "v.patch_embd.weight.1":
            return "visual.patch_embed.proj.weight.1"
        if leaf not in ("weight", "bias"):
            return None
        if stem in _NAMES:
            return f"{_NAMES[stem]}.{leaf}"
        match = re.fullmatch(r"(blk|v\.blk|v\.deepstack)\.(\d{1,4})\.(\w+)", stem)
        if match is None:
            return None
        stack, number, part = match[1], int(match[2]), match[3]
        if stack == "blk" and part in _LAYER:
            return f"language_model.layers.{number}.{_LAYER[part]}.{leaf}"
        if stack == "v.blk" and part in _VISION_LAYER:
            return f"visual.blocks.{number}.{_VISION_LAYER[part]}.{leaf}"
        if stack == "v.deepstack" and part in _DEEPSTACK:
            place = self.deepstack.index(number)  # the file has the layer that it is taken from
            return f"visual.deepstack_merger_list.{place}.{_DEEPSTACK[part]}.{leaf}"
        return None

    def number(self, key: str) -> int | float | None:
        """A number of the header, None where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def read_gguf(files: list[str], name: str) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a vision tower's file, or of a language model's and its vision tower's.

    Returns:
        Tensors, and the configuration as the metadata of a safetensors file has it: the headers tell more of it than
        the tensors' shapes.

    Raises:
        ZvlError: as `GGUF`; or there is no vision tower among the files.
    """
    opened = [GGUF(file, name) for file in files]
    tower = next((each for each in opened if each.vision), None)
    if tower is None:
        raise ZvlError(f"{name} has no vision tower. Put its mmproj file beside it. {WANTED}.")
    tower.tensors = _with_frames(tower.tensors)
    tensors = {own: stored for each in opened for own, stored in each.tensors.items()}
    language = next((each for each in opened if not each.vision), None)
    said = _text_config(language) if language else {}
    config = config_from_shapes(readable_shapes(tensors), name, _vision_config(tower), said)
    return tensors, {"config": json.dumps(config)}


def _check_whole(entries: dict[str, Entry], size: int) -> None:
    for entry in entries.values():
        form = FORMS.get(ggml.TYPES.get(entry.type, ""))
        if form is None:
            continue  # told where it is needed
        if entry.shape and entry.shape[-1] % form.numbers:
            raise ValueError("its header has a tensor of a shape that its type can't have")
        count = 1
        for side in entry.shape:
            count *= side
        if entry.start + count // form.numbers * form.bytes > size:
            raise ValueError("a tensor ends behind its end")


def _stored(path: str, key: str, own: str, entry: Entry, version: tuple[int, int]) -> Stored:
    dtype = ggml.TYPES.get(entry.type, f"GGUF's type {entry.type}")
    problem = ""
    if dtype not in FORMS or (dtype in ggml.BLOCKS and not ggml.readable(dtype)):
        problem = f"the tensor {own} is stored as {dtype}, which can't be read"
    return Stored(path, key, entry.shape, dtype, entry.start, version, problem=problem)


def _with_frames(found: Tensors) -> Tensors:
    """The first layer's weight is stored in two, one for each of the frames that a still picture is repeated in."""
    first, second = (found.pop(f"visual.patch_embed.proj.weight{end}", None) for end in ("", ".1"))
    if first is None or second is None or len(first.shape) != 4 or first.shape != second.shape:
        return found
    shape = (*first.shape[:2], 2, *first.shape[2:])
    problem = first.problem or second.problem
    whole = Stored(
        first.file, first.key, shape, first.dtype, first.start, first.version, problem=problem, frames=(first, second)
    )
    return {**found, "visual.patch_embed.proj.weight": whole}


def _vision_config(tower: GGUF) -> dict[str, Any]:
    heads = tower.number("clip.vision.attention.head_count")
    return {"deepstack_visual_indexes": tower.deepstack} | ({"num_heads": heads} if heads else {})


def _text_config(language: GGUF) -> dict[str, Any]:
    epsilon = language.number(f"{_LANGUAGE}.attention.layer_norm_rms_epsilon")
    theta = language.number(f"{_LANGUAGE}.rope.freq_base")
    sections = language.values.get(f"{_LANGUAGE}.rope.dimension_sections")
    said: dict[str, Any] = {"rms_norm_eps": epsilon} if epsilon else {}
    if theta:
        said["rope_theta"] = theta
    if isinstance(sections, list) and len(sections) >= 3:
        said["rope_scaling"] = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": sections[:3]}
    return said
