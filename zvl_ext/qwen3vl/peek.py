"""What a file of weights says of itself at its beginning.

The list of models looks so into every file of folders that are shared with other programs; a file that is opened is
looked at first, because "a header is too large" about a web page that was saved under a model's name helps nobody.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..errors import ZvlError
from ..outside import open_regular, reason
from . import gguf_header, safetensors_header
from .pieces import Pieces

SAFETENSORS = (".safetensors", ".sft")
GGUF = (".gguf",)
WEIGHTS = SAFETENSORS + GGUF
# What stands at the beginning of files that are saved under a name for weights: what they are, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "it is only a pointer of Git LFS: run git lfs pull"),
    (b"<", "it is a web page: take the address of the download button"),
    (b"PK\x03\x04", "it is a zip archive or a pickle"),
    (b"\x80", "it is a pickle"),
)


@dataclass(frozen=True)
class Peek:
    """The beginning of one file.

    Attributes:
        shapes: Its tensors' shapes, by the names in the file; a GGUF's are not read.
        fields: A GGUF's entries before its vocabulary.
        unfinished: Why the file is not whole, as the end of "it is not whole: …"; empty where nothing is missing.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    unfinished: str = ""


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
def _peek(path: str, *state: int) -> Peek | str:
    """Refusals are kept as well: most files of a shared folder are none of ours."""
    with open_regular(path) as file:
        if not (begin := file.read(32)):
            return "it is empty"
    with Pieces(path, os.path.basename(path)) as pieces:
        try:
            if path.lower().endswith(GGUF):
                return Peek(fields=MappingProxyType(gguf_header.read_entries(pieces)))
            _, entries = safetensors_header.read_entries(pieces)
        except ZvlError as error:
            raise OSError(str(error)) from error
        except ValueError as error:
            return next((what for sign, what in _OTHERS if begin.startswith(sign)), reason(error))
        size, end = pieces.version[0], safetensors_header.end_of(entries, pieces)
    missing = f"{_bytes(size)} of {_bytes(end)} are there: a download that has not finished" if size < end else ""
    return Peek(MappingProxyType({name: entry.shape for name, entry in entries.items()}), unfinished=missing)


def _bytes(count: int) -> str:
    if count < 10**6:
        return f"{count} bytes"
    return f"{count / 10**6:.0f} MB" if count < 10**9 else f"{count / 10**9:.1f} GB"
