"""Files in a folder that other processes use as well, and in which anything may lie."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO

_ABANDONED = 3600  # seconds after which nobody writes to a file any more, where files can't be locked
_WINDOWS = os.name == "nt"


@contextlib.contextmanager
def being_written(path: str) -> Iterator[BinaryIO]:
    """A new file to write into, known to be at work while the context is open: it is locked, and a lock ends with its
    process, however that ends. The file has the rights that any new file has here.

    Raises:
        OSError: it can't be made.
    """
    while True:
        with open(path, "xb", buffering=0) as file:
            _lock(file.fileno())
            if os.path.exists(path):  # nobody took it for abandoned before it had its lock
                yield file
                return


@contextlib.contextmanager
def held(path: str) -> Iterator[bool]:
    """A file that one process at a time holds, however that ends; whether it is this one. Where files have no locks it
    always is.

    Raises:
        OSError: it can't be made.
    """
    with open(path, "ab") as file:
        yield _lock(file.fileno()) is not False


def remove_abandoned(path: str) -> bool:
    """Remove a file, unless somebody is writing to it; whether it is gone.

    Windows removes no file that is open, and has no such locks. Where files can't be locked, their age has to tell.
    """
    if _WINDOWS:
        return remove(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        alone = _lock(handle)
        if alone is None:
            alone = time.time() - os.fstat(handle).st_mtime > _ABANDONED
        return alone and remove(path)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool | None:
    """Whether the file is this handle's now; None where files have no locks."""
    if _WINDOWS:
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network's folder
        return None
    return True


def content(path: str, limit: int, most: int = -1) -> bytes:
    """A regular file's bytes, the first `most` of them; b"" where it has more than the limit, or is a pipe, a device or
    a link.

    Read, not mapped: a mapped file can't be replaced on Windows, and one that another program truncates kills the
    process.

    Raises:
        OSError: it can't be read.
    """
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    handle = os.open(path, os.O_RDONLY | sum(flags))
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode) or info.st_size > limit:
            return b""
        with open(handle, "rb", closefd=False) as file:
            return file.read(info.st_size if most < 0 else most)
    finally:
        os.close(handle)


def remove(path: str) -> bool:
    """Whether there is no such file any more."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError):  # open in another process on Windows, a read-only folder; a NUL in the name
        return False
    return True
