"""What a file of weights says of itself at its beginning: read quickly, without a library, whatever the file is.

The list of models looks so into every file of folders that are shared with other programs; a file that is opened is
looked at first, because a library's message about a download that stopped halfway helps nobody.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, BinaryIO

from ..outside import open_regular, parse_json, reason

SAFETENSORS = (".safetensors", ".sft")
GGUF = (".gguf",)
WEIGHTS = SAFETENSORS + GGUF
_HEADER = 16 * 2**20  # bytes of a header: Qwen3-VL-4B's has 0.1 MB, the longest in use (merged, with notes) some MB
_FIELDS = 64 * 2**10  # bytes of a GGUF's first fields: those before its vocabulary
_RANK = 8  # dimensions of a tensor at most

# What stands at the beginning of files that are saved under a name for weights: what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "it is only a pointer of Git LFS: run git lfs pull"),
    (b"<", "it is a web page: take the address of the file's download button"),
    (b"PK\x03\x04", "it is a zip archive or a pickle"),
    (b"\x80", "it is a pickle"),
)


@dataclass(frozen=True)
class Peek:
    """The beginning of one file.

    Attributes:
        shapes: Its tensors' shapes, by the names in the file; a GGUF's are not read.
        fields: A GGUF's fields before its vocabulary: texts, numbers and switches.
        expected: Bytes that the whole file has, as its header says; 0 where that is not known.
        size: Bytes that are there.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    expected: int = 0
    size: int = 0

    @property
    def unfinished(self) -> str:
        """Why the file is not whole, as the end of "it is not whole: …"; empty where nothing is missing."""
        if self.size >= self.expected:
            return ""
        return f"{_bytes(self.size)} of {_bytes(self.expected)} are there: a download that has not finished"


def is_weights(name: str) -> bool:
    """Whether a name ends as those of safetensors and GGUF files do, in whatever case."""
    return name.lower().endswith(WEIGHTS)


def peek(path: str) -> Peek:
    """Look at a file's beginning, once for each state of the file.

    Raises:
        OSError: it can't be read, or it is no regular file.
        ValueError: it is not what its name says; the message says what it is, as the end of "it is not whole: …".
    """
    info = os.stat(path)
    found = _peek(path, info.st_size, info.st_mtime_ns, info.st_ino)
    if isinstance(found, str):
        raise ValueError(found)
    return found


@functools.lru_cache(maxsize=4096)
def _peek(path: str, size: int, *state: int) -> Peek | str:
    """The refusals are kept as well: most files of a shared folder are none of ours."""
    with open_regular(path) as file:
        try:
            return (_gguf if path.lower().endswith(GGUF) else _safetensors)(file, size)
        except (ValueError, TypeError, struct.error, OverflowError) as error:
            return reason(error)


def _safetensors(file: BinaryIO, size: int) -> Peek:
    """Eight bytes with the header's length, then the header: JSON with every tensor's shape and place."""
    start = file.read(32)
    if not start:
        raise ValueError("it is empty")
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= _HEADER or start[8:9] not in (b"{", b""):
        raise ValueError(next((what for sign, what in _OTHERS if start.startswith(sign)), "it has no header"))
    if size < 8 + length:
        raise ValueError(f"{_bytes(size)} are there and not even its header: a download that has not finished")
    file.seek(8)
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("it has no header")
    header.pop("__metadata__", None)
    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    for name, entry in header.items():
        shape, (_, last) = entry["shape"], entry["data_offsets"]
        if len(shape) > _RANK or not all(type(number) is int and number >= 0 for number in (*shape, last)):
            raise ValueError("its header does not describe tensors")
        shapes[name], end = tuple(shape), max(end, last)
    return Peek(MappingProxyType(shapes), expected=8 + length + end, size=size)


def _gguf(file: BinaryIO, size: int) -> Peek:
    """ggml's docs/gguf.md: a version, how many tensors and fields there are, then fields with a name and a type."""
    data = file.read(_FIELDS)
    magic, version, _, count = struct.unpack_from("<4sIQQ", data)
    if magic != b"GGUF":
        raise ValueError(next((what for sign, what in _OTHERS if data.startswith(sign)), "it has no header"))
    if version not in (2, 3):
        raise ValueError(f"it is a GGUF of version {version}")
    fields: dict[str, Any] = {}
    at = struct.calcsize("<4sIQQ")
    try:
        for _ in range(count):
            name, at = _text(data, at)
            if name.startswith("tokenizer."):
                break
            (kind,) = struct.unpack_from("<I", data, at)
            value, at = _value(data, at + 4, kind)
            fields[name] = value
    except (struct.error, IndexError):
        pass  # the rest lies beyond what was read
    return Peek(fields=MappingProxyType(fields), size=size)


# GGUF's types of one value, by their numbers, as struct writes them.
_NUMBERS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


def _text(data: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise IndexError
    return data[at + 8 : end].decode("utf-8", "replace"), end


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    """One field's value and where the next one begins; an array is passed over."""
    if kind == _TEXT:
        return _text(data, at)
    if kind == _ARRAY:
        inner, count = struct.unpack_from("<IQ", data, at)
        at += 12
        if inner == _TEXT:
            for _ in range(count):
                _, at = _text(data, at)
        else:
            at += count * struct.calcsize("<" + _number(inner))
        return None, at
    (value,) = struct.unpack_from("<" + _number(kind), data, at)
    return value, at + struct.calcsize("<" + _number(kind))


def _number(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError("its header does not describe tensors")
    return _NUMBERS[kind]


def _bytes(count: int) -> str:
    if count < 10**6:
        return f"{count} bytes"
    return f"{count / 10**6:.0f} MB" if count < 10**9 else f"{count / 10**9:.1f} GB"
