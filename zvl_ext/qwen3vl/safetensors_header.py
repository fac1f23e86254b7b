"""What the header of a safetensors file says: checked before anything believes it.

Format: huggingface/safetensors' README. The library reads headers too, but keeps the file mapped, and does not say
where a tensor's bytes are.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any

from ..outside import parse_json
from .pieces import Pieces

_LARGEST = 2**25  # bytes of a header: ten times that of any model's
# Bits of a number; of types that are not in here, only the place is known.
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}

_TYPE = re.compile(r"\w{1,20}", re.ASCII)


@dataclass(frozen=True)
class Entry:
    """One tensor: its shape, its type, and where in the file its bytes are."""

    shape: tuple[int, ...]
    dtype: str
    start: int
    size: int


def read_header(file: Pieces) -> tuple[dict[str, str], dict[str, Entry]]:
    """The metadata, and the tensors by their names.

    Raises:
        ValueError: it is not a whole safetensors file; the message says so in a few words.
    """
    metadata, found = read_entries(file)
    if (end := end_of(found, file)) != file.version[0]:
        raise ValueError(f"its tensors end at byte {end}, it has {file.version[0]}")
    return metadata, found


def end_of(entries: dict[str, Entry], file: Pieces) -> int:
    """How many bytes a file with these tensors has when it is whole."""
    return max((entry.start + entry.size for entry in entries.values()), default=file.version[0])


def read_entries(file: Pieces) -> tuple[dict[str, str], dict[str, Entry]]:
    """The same of a file whose tensors need not all be there.

    Raises:
        ValueError: as `read_header`.
    """
    whole = file.version[0]
    if whole < 8:
        raise ValueError("it ends in its header")
    (size,) = struct.unpack("<Q", file.read(0, 8))
    if size > _LARGEST:
        raise ValueError("its header has an impossible size")
    if 8 + size > whole:
        raise ValueError("it ends in its header")
    header = parse_json(file.read(8, size).rstrip(b"\0 "))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    metadata = header.pop("__metadata__", None)
    metadata = metadata if isinstance(metadata, dict) else {}
    found = {name: _entry(value, 8 + size) for name, value in header.items()}
    return {key: text for key, text in metadata.items() if isinstance(text, str)}, found


def _entry(value: Any, data: int) -> Entry:
    try:
        shape, dtype, (begin, end) = value["shape"], value["dtype"], value["data_offsets"]
        numbers = all(type(number) is int and 0 <= number < 2**62 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        raise ValueError("its header does not describe tensors") from None
    bits = _BITS.get(dtype) if isinstance(dtype, str) and _TYPE.fullmatch(dtype) else 0
    if not numbers or len(shape) > 64 or bits == 0 or begin > end:
        raise ValueError("its header does not describe tensors")
    if bits and math.prod(shape) * bits != (end - begin) * 8:
        raise ValueError("its header describes tensors of other sizes than they have")
    return Entry(tuple(shape), dtype, data + begin, end - begin)
