"""What the headers of files promise, read without a decoder: some decoders believe a header and work for minutes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

# --- TIFF, and EXIF, which is one

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {3: "H", 4: "I", 16: "Q"}
_ENTRIES = 1024  # of a directory; photographs have some 50


class Entry(NamedTuple):
    """One entry of a directory: its tag, the type and count of its values, their bytes, and the value where it is one
    whole number (else 0)."""

    tag: int
    kind: int
    values: int
    size: int
    value: int


def directory(data: bytes, big: bool = False) -> Iterator[Entry]:
    """The entries of the first directory (TIFF 6.0, section 2; `big`: BigTIFF), as far as they are there.

    Raises:
        ValueError: there are more than any picture has.
    """
    order = ">" if data[:2] == b"MM" else "<"
    head, number, form = (8, "Q", "HHQ8s") if big else (4, "H", "HHI4s")
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, head)
        (entries,) = struct.unpack_from(order + number, data, at)
        for _ in range(min(entries, _ENTRIES)):
            place = at + struct.calcsize(order + number)
            tag, kind, count, value = struct.unpack_from(order + form, data, place)
            at += struct.calcsize(order + form)
            one = struct.unpack_from(order + _WHOLE[kind], value)[0] if kind in _WHOLE and count == 1 else 0
            yield Entry(tag, kind, count, count * _SIZES.get(kind, 0), one)
    except (struct.error, OverflowError):  # it ends too early, which the decoder will say
        return
    if entries > _ENTRIES:
        raise ValueError("too many entries")


# --- JPEG


_MARKER = re.compile(rb"\xff[^\0\1\xd0-\xd7\xff]")  # one with a length behind it; among coded values FF is FF 00
_START_OF_SCAN, _END = 0xDA, 0xD9
_MARKERS = 100_000


def jpeg_scans(data: bytes) -> int:
    """How often a decoder goes over the picture (ITU T.81, annex B)."""
    at, scans = 2, 0
    for _ in range(_MARKERS):
        found = _MARKER.search(data, at)
        if found is None or data[found.end() - 1] == _END:
            return scans
        scans += data[found.end() - 1] == _START_OF_SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return _MARKERS


# --- JPEG XL

_BOX = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height (ISO/IEC 18181-1, SizeHeader); (0, 0) where there is no such header."""
    stream = _jxl_stream(data)
    if stream[:2] != b"\xff\x0a":
        return 0, 0
    bits, at = int.from_bytes(stream[2:16], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return (bits >> (at - count)) & ((1 << count) - 1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height = side()
    ratio = take(3)
    if not ratio:
        return side(), height
    wide, high = _RATIOS[ratio - 1]
    return height * wide // high, height


def _jxl_stream(data: bytes) -> bytes:
    """The first bytes of the codestream, which may lie in boxes (ISO/IEC 18181-2)."""
    if not data.startswith(_BOX):
        return data[:16]
    at = 0
    for _ in range(_ENTRIES):
        size, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)
            return data[start : start + 16]
        if size < head:  # to the end of the file, or nonsense
            break
        at += size
    return b""
