"""What quantized files say of a weight beside it: ComfyUI's `.comfy_quant` (JSON as bytes), also in the metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import shown
from ..outside import parse_json, plain

GROUP = 256  # where it is said that weights are rotated, and not by which groups
LONGEST = 2**16  # bytes of a note
_LONGEST_METADATA = 2**24
# Formats by what the weight is stored as. They differ in the scale's shape, which the scale itself tells.
_KINDS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8"}
_SHAPES = "(_(tensorwise|rowwise|row|channelwise|blockwise|block3d|scaled|convrot))*"
_PLAIN = {"BF16": ("bfloat16", "bf16"), "F16": ("float16", "fp16"), "F32": ("float32", "fp32")}


@dataclass(frozen=True)
class Note:
    """What is said of one weight.

    Attributes:
        format: The quantization's name; "" where nothing is said.
        group: Side of a block that shares a scale; 0 where nothing is said.
        rotation: By groups of how many inputs it is rotated (ConvRot); 0 for not.
        problem: What is said instead, where that can't be understood.
    """

    format: str = ""
    group: int = 0
    rotation: int = 0
    problem: str = ""


def parse(data: bytes) -> Note:
    """A note of any content."""
    try:
        said = parse_json(data.rstrip(b"\0"))
    except ValueError:
        return Note(problem="something")
    return understood(said)


def understood(said: Any) -> Note:
    """The same, as JSON has it."""
    if not isinstance(said, dict):
        return Note(problem=shown(said))
    inside = said.get("params")
    said = (inside if isinstance(inside, dict) else {}) | said  # an early kind has the rest in there
    name, group = said.get("format"), said.get("group_size", 0)
    if not isinstance(name, str) or not name:
        return Note(problem=shown(name))
    rotation = 0
    if said.get("convrot", name.endswith("_convrot")):
        rotation = said.get("convrot_groupsize", GROUP)
        if not is_group(rotation):
            return Note(problem=f"{shown(name)}, rotated by groups of {shown(rotation)}")
    return Note(plain(name), group if type(group) is int and 0 < group < 2**20 else 0, rotation)


def is_group(size: object) -> bool:
    """Whether there is a regular Hadamard matrix of that size: a power of four."""
    return type(size) is int and 4 <= size <= 4**8 and size & (size - 1) == 0 and size.bit_length() % 2 == 1


def in_metadata(metadata: dict[str, str]) -> dict[str, Note]:
    """Notes by their weights' names without `.weight`, from the metadata entry `_quantization_metadata`."""
    text = metadata.get("_quantization_metadata", "")
    if not text or len(text) > _LONGEST_METADATA:
        return {}
    try:
        said = parse_json(text)
        layers = said["layers"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return {name: understood(layer) for name, layer in layers}


def fits(name: str, dtype: str) -> bool:
    """Whether weights of that form are what a format's name says, so that the form tells how they are read."""
    if not name or name in _PLAIN.get(dtype, ()):
        return True
    return dtype in _KINDS and re.fullmatch(_KINDS[dtype] + _SHAPES, name) is not None
