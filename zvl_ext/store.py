"""What is kept between pictures: a bounded memory and, behind it, a bounded folder. Least recently used first out.

Keys of what goes to disk are nested tuples of str and int: their repr is the same in every process.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from . import entry
from .entry import Bundle as Bundle
from .folder import being_written, content, remove, remove_abandoned

DEFAULT = 2**30  # bytes
_ENTRY = re.compile(r"[0-9a-f]{64}\.zvl\.safetensors")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.zvl\.tmp")
_LIBRARYS = re.compile(
    r"\.tmp[0-9A-Za-z]{6}"
)  # what safetensors 0.8 calls the files it writes, as this module once did
_FULL = (errno.ENOSPC, errno.EDQUOT)


def data_folder() -> str:
    """The folder for `Disk`, in the extension's own; it may not exist yet."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "cache")


class Store:
    """A bounded memory, with a disk behind it or without. Several threads may use it at the same time.

    Values are shared, never copied: nobody writes into what comes out of here.

    Args:
        limit: Bytes to keep in memory at most. One larger value is not kept there at all.
        size: Bytes of a value; default: of a bundle's tensors.
        disk: Keeps every lasting value put as well, and is asked for what memory does not have. Values have to be
            bundles then.
    """

    def __init__(self, limit: int = DEFAULT, size: Callable[[Any], int] = entry.nbytes, disk: Disk | None = None):
        self.limit = limit
        self.disk = disk
        self._size = size
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()  # value and its bytes
        self._total = 0
        self._lock = threading.Lock()  # never held during disk I/O: a slow disk must not hold up hits in memory

    @property
    def size(self) -> int:
        """Bytes in memory."""
        return self._total

    def get(self, key: Hashable, sound: Callable[[Any], bool] = lambda value: True) -> Any:
        """The value, from memory or else from disk, or None.

        Args:
            sound: Whether a value that comes from disk is one to go on with: a file may be whole and hold anything.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        disk = self.disk
        value = disk.get(key) if disk is not None else None
        return None if value is None or not sound(value) else self._keep(key, value, replace=False)

    def put(self, key: Hashable, value: Any, lasting: bool = True) -> None:
        """Keep a value.

        Args:
            lasting: Whether its key means something in another process; otherwise it would take up the disk in vain.
        """
        self._keep(key, value, replace=True)
        disk = self.disk
        if disk is not None and lasting:
            disk.put(key, value)

    def resize(self, limit: int) -> None:
        """Set the memory's limit in bytes and drop what is over it."""
        with self._lock:
            self.limit = limit
            self._shrink()

    def clear(self) -> None:
        """Forget everything, on disk as well."""
        with self._lock:
            self._kept.clear()
            self._total = 0
        disk = self.disk
        if disk is not None:
            disk.clear()

    def _keep(self, key: Hashable, value: Any, replace: bool) -> Any:
        """Put into memory. Without `replace`, what is there already stays: it was put while this value was being
        read."""
        size = self._size(value)
        with self._lock:
            if key in self._kept:
                if not replace:
                    return self._kept[key][0]
                self._total -= self._kept.pop(key)[1]
            if size <= self.limit:
                self._kept[key] = value, size
                self._total += size
                self._shrink()
        return value

    def _shrink(self) -> None:
        while self._total > self.limit:
            self._total -= self._kept.popitem(last=False)[1][1]


class File(NamedTuple):
    """A file of a `Disk`: its path, its bytes, and when it was last used, in nanoseconds since 1970."""

    path: str
    size: int
    used: int


class Disk:
    """A bounded folder with one safetensors file per key. Several processes may use it at the same time.

    It never fails for what the folder holds or refuses: a file that is damaged, foreign or out of reach is a miss, and
    what can't be written is not kept, nor is what was kept under its key before. The folder is made by the first put.
    Files of other names in it are never touched.

    What a killed process leaves half-written counts as well. The next put, of whatever process, removes it before it
    writes.

    Args:
        folder: The path.
        limit: Bytes of all files together at most, and of what each process is writing just then. One larger entry is
            not kept at all.
    """

    def __init__(self, folder: str, limit: int):
        self.folder = folder
        self.limit = limit
        self._warned = False
        self._outdated: set[str] = set()  # digests of entries that could be neither replaced nor removed

    @property
    def size(self) -> int:
        """Bytes on disk, of what a killed process left half-written as well."""
        return sum(file.size for file in self.files() + self._halves())

    def files(self) -> list[File]:
        """The entries' files, in no order."""
        return self._list(_ENTRY)

    def get(self, key: Hashable) -> Bundle | None:
        """The bundle, in memory of its own, or None."""
        digest = entry.digest(key)
        path = self._path(digest)
        if digest in self._outdated:
            return None
        try:
            bundle = entry.decoded(digest, content(path, self.limit))
        except Exception:  # noqa: BLE001  the many ways in which damaged JSON and safetensors fail all mean the same
            return None
        if bundle is not None:
            with contextlib.suppress(OSError):  # a read-only folder
                os.utime(path)
        return bundle

    def put(self, key: Hashable, bundle: Bundle) -> None:
        digest = entry.digest(key)
        path, kept = self._path(digest), False
        try:
            data = entry.encoded(digest, bundle) if entry.nbytes(bundle) <= self.limit else b""
            fits = 0 < len(data) <= self.limit
            if self._make_room(len(data) if fits else 0, path) and fits:
                os.makedirs(self.folder, exist_ok=True)
                if len(data) + sum(file.size for file in self.files()) > self.limit:
                    remove(path)  # which this takes the place of
                self._write(path, data)
                kept = True
                self._make_room(len(data), path)  # others may have written meanwhile
        except Exception as error:  # noqa: BLE001  a picture must not fail because it can't be kept
            self._tell(error)
        if kept or remove(path):  # what was put under this key before must not come back
            self._outdated.discard(digest)
        else:
            self._outdated.add(digest)

    def clear(self) -> int:
        """Remove all entries and what was left half-written. Returns the number of files removed."""
        return sum(remove(file.path) for file in self.files()) + sum(
            remove_abandoned(file.path) for file in self._halves()
        )

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, f"{digest}.zvl.safetensors")

    def _make_room(self, size: int, path: str) -> bool:
        """Remove what was left half-written, and the least recently used, until there is room for that many bytes at
        this path beside all others; says whether there is."""
        for file in self._halves():  # those that stay belong to others, who make room for them
            remove_abandoned(file.path)
        others = sorted((file for file in self.files() if file.path != path), key=lambda file: file.used)
        total = size + sum(file.size for file in others)
        for file in others:
            if total <= self.limit:
                break
            if remove(file.path):
                total -= file.size
        return total <= self.limit

    def _write(self, path: str, data: bytes) -> None:
        """Write, and where the disk is full, remove the least recently used to have the newest.

        Raises:
            OSError: it can't be written.
        """
        while True:
            try:
                return self._replace(path, data)
            except OSError as error:
                if error.errno not in _FULL or not self._drop(path, len(data)):
                    raise
                self._tell(error)

    def _replace(self, path: str, data: bytes) -> None:
        """Write beside the target and rename, so that no reader ever sees half a file."""
        temporary = os.path.join(self.folder, f"{uuid.uuid4().hex}.zvl.tmp")
        try:
            with being_written(temporary) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                if os.name == "nt":  # which renames no file that is open; elsewhere the lock has to hold until then
                    file.close()
                os.replace(temporary, path)
        finally:
            remove(temporary)

    def _drop(self, path: str, size: int) -> int:
        """Remove the file of this path and the least recently used, of at least that many bytes together; the bytes
        that they were."""
        dropped = 0
        for file in sorted(self.files(), key=lambda file: (file.path != path, file.used)):
            if dropped >= size:
                break
            dropped += file.size if remove(file.path) else 0
        return dropped

    def _tell(self, error: Exception) -> None:
        """Say once that something can't be kept: the disk is full or read-only, or a file is open in another process on
        Windows."""
        if not self._warned:
            reason = getattr(error, "strerror", None) or error
            logging.getLogger(__name__).warning("Z-Image VL: not all can be kept in %s (%s).", self.folder, reason)
        self._warned = True

    def _halves(self) -> list[File]:
        """What is half-written. Other programs have files of safetensors' names as well: ours say what they are."""
        return self._list(_TEMPORARY) + [file for file in self._list(_LIBRARYS) if _is_ours(file.path)]

    def _list(self, names: re.Pattern[str]) -> list[File]:
        """The regular files of these names."""
        found = []
        with contextlib.suppress(OSError, ValueError), os.scandir(self.folder) as entries:
            for each in entries:
                with contextlib.suppress(OSError):  # removed by another process since
                    if names.fullmatch(each.name) and each.is_file(follow_symlinks=False):
                        info = each.stat(follow_symlinks=False)
                        found.append(File(each.path, info.st_size, info.st_mtime_ns))
        return found


def _is_ours(path: str) -> bool:
    """Whether a file begins as an entry does."""
    try:
        return b'"zvl_store"' in content(path, 2**63, most=2**12)
    except OSError:
        return False
