"""What happens to a file of weights while it is in use: somebody writes it anew, in place or not."""

from __future__ import annotations

import os
from pathlib import Path


def truncated(file: Path) -> None:
    os.truncate(file, 1000)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def zeroed(file: Path) -> None:
    """In place: of the same size, another time."""
    size = file.stat().st_size
    with open(file, "r+b") as opened:
        opened.write(b"\0" * size)
    os.utime(file, ns=(1, 1))


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes()[::-1])
    os.utime(other, ns=(1, 1))
    os.replace(other, file)


def removed(file: Path) -> None:
    file.unlink()


WAYS = [truncated, emptied, zeroed, replaced, removed]
