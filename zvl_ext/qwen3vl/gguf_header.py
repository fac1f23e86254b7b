"""What the header of a GGUF file says, read piece by piece: its entries, and where its tensors are.

Format: ggml's docs/gguf.md, versions 2 and 3, little endian. The `gguf` package reads headers too, but maps the file,
and believes every count in it.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from .pieces import Pieces

Shape = tuple[int, ...]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_KEPT = 512  # numbers of an array: vocabularies are passed over
_LONGEST_TEXT = 2**20
_LARGEST = 2**25  # bytes of a header: several times that of a large vocabulary
_MOST = 2**20  # entries, tensors
_PIECE = 2**16


@dataclass(frozen=True)
class Entry:
    """One tensor: its shape with the last axis contiguous, the number of its type, where its bytes begin."""

    shape: Shape
    type: int
    start: int


class _Stream:
    """Values one after another, from a file that may say anything."""

    def __init__(self, file: Pieces):
        self._file, self._size = file, min(file.version[0], _LARGEST)
        self._data, self._first, self.at = b"", 0, 0

    def take(self, size: int) -> bytes:
        if size > self._size - self.at:
            raise ValueError("its header ends too early")
        if not self._first <= self.at <= self.at + size <= self._first + len(self._data):
            self._first = self.at
            self._data = self._file.read(self.at, min(max(size, _PIECE), self._size - self.at))
        begin = self.at - self._first
        self.at += size
        return self._data[begin : begin + size]

    def skip(self, size: int) -> None:
        if size > self._size - self.at:
            raise ValueError("its header ends too early")
        self.at += size

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def count(self, most: int, what: str) -> int:
        found: int = self.number("Q")
        if found > most:
            raise ValueError(f"its header counts {found} {what}")
        return found

    def text(self) -> str:
        return self.take(self.count(_LONGEST_TEXT, "characters")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError("its header has an entry of an unknown kind")
        inner, count = self.number("I"), self.number("Q")
        if inner in _SCALARS and count <= _LONGEST_KEPT:
            return [self.number(_SCALARS[inner]) for _ in range(count)]
        if inner in _SCALARS:
            self.skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            for _ in range(count):  # ends with the header at the latest: each takes 8 bytes
                self.skip(self.number("Q"))
        else:
            raise ValueError("its header has an entry of an unknown kind")
        return None


def read_entries(file: Pieces) -> dict[str, Any]:
    """The entries before the vocabulary's, which tell what the file is: the vocabulary takes most of the time.

    Raises:
        ValueError: as `read_header`.
    """
    stream, _, entries = _begin(file)
    values: dict[str, Any] = {}
    for _ in range(entries):
        if (key := stream.text()).startswith("tokenizer."):
            break
        values[key] = stream.value(stream.number("I"))
    return values


def _begin(file: Pieces) -> tuple[_Stream, int, int]:
    """The file behind its first numbers, and how many tensors and entries it has."""
    stream = _Stream(file)
    if stream.take(4) != b"GGUF":
        raise ValueError("it does not begin as one")
    if (version := stream.number("I")) not in (2, 3):
        raise ValueError(f"its version is {version}")
    return stream, stream.count(_MOST, "tensors"), stream.count(_MOST, "entries")


def read_header(file: Pieces) -> tuple[dict[str, Any], dict[str, Entry]]:
    """The entries by their keys (None for long arrays), and the tensors by their names.

    Raises:
        ValueError: it is not a GGUF file, or not a whole header; the message says so in a few words.
    """
    stream, tensors, entries = _begin(file)
    values = {stream.text(): stream.value(stream.number("I")) for _ in range(entries)}
    found: dict[str, Entry] = {}
    for _ in range(tensors):
        name, axes = stream.text(), stream.number("I")
        if axes > 8:
            raise ValueError(f"its header has a tensor of {axes} axes")
        shape = tuple(stream.number("Q") for _ in range(axes))[::-1]
        found[name] = Entry(shape, stream.number("I"), stream.number("Q"))
        if math.prod(shape) > 2**62:
            raise ValueError("its header has a tensor of impossible size")
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or not 0 < alignment <= 2**20:
        raise ValueError("its alignment is impossible")
    data = -(-stream.at // alignment) * alignment
    return values, {name: Entry(entry.shape, entry.type, data + entry.start) for name, entry in found.items()}
