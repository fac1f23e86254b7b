"""What a file of weights says of itself at its beginning.

The list of models looks so into every file of folders that are shared with other programs; a file that is opened is
looked at first, because "a header is too large" about a web page that was saved under a model's name helps nobody.
"""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass

from ..outside import open_regular, reason
from . import gguf_header, kinds, safetensors_header
from .kinds import Kind
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
    """What the beginnings of one model's files tell.

    Attributes:
        kind: Which model it is; None where nothing tells.
        problem: Why a file is not whole, as the end of "it is not whole: …"; empty where nothing is missing.
    """

    kind: Kind | None
    problem: str = ""


def is_weights(name: str) -> bool:
    """Whether a name ends as those of safetensors and GGUF files do, in whatever case."""
    return name.lower().endswith(WEIGHTS)


def peek(paths: list[str]) -> Peek:
    """Look at the beginnings of one model's files, once for each state of them."""
    states = []
    for path in paths:
        try:
            info = os.stat(path)
        except OSError as error:
            return Peek(None, f"it can't be read: {reason(error)}")
        states.append((path, info.st_size, info.st_mtime_ns, info.st_ino))
    return _peek(tuple(states))


@functools.lru_cache(maxsize=4096)
def _peek(states: tuple[tuple[str, int, int, int], ...]) -> Peek:
    """What can't be read is kept as well: most files of a shared folder are none of ours."""
    shapes: dict[str, tuple[int, ...]] = {}
    kind: Kind | None = None
    problems = []
    for path, *_ in states:
        try:
            if path.lower().endswith(GGUF):
                with Pieces(path, os.path.basename(path)) as pieces:
                    kind = kinds.of_fields(gguf_header.read_entries(pieces))
            else:
                more, problem = _safetensors(path)
                shapes |= more
                problems += [problem] * bool(problem)
        except (OSError, ValueError) as error:
            problems.append(_what_else(path) or reason(error))
    return Peek(kind or (kinds.of_tensors(shapes) if shapes else None), next(iter(problems), ""))


def _safetensors(path: str) -> tuple[dict[str, tuple[int, ...]], str]:
    with Pieces(path, os.path.basename(path)) as pieces:
        _, entries = safetensors_header.read_entries(pieces)
        size, end = pieces.version[0], safetensors_header.end_of(entries, pieces)
    missing = f"{_bytes(size)} of {_bytes(end)} are there: a download that has not finished" if size < end else ""
    return {name: entry.shape for name, entry in entries.items()}, missing


def _what_else(path: str) -> str:
    """What a file without a header of weights is; empty where nothing tells, or it can't be opened."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        begin = file.read(32)
        return next((what for sign, what in _OTHERS if begin.startswith(sign)), "") if begin else "it is empty"
    return ""


def _bytes(count: int) -> str:
    if count < 10**6:
        return f"{count} bytes"
    return f"{count / 10**6:.0f} MB" if count < 10**9 else f"{count / 10**9:.1f} GB"
