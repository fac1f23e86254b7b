"""What is kept between pictures: a bounded memory and, behind it, a bounded folder. Least recently used first out.

Keys of what goes to disk are nested tuples of str and int: their repr is the same in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

Bundle = dict[str, "torch.Tensor"]  # what is kept under one key: named CPU tensors that own their storage
DEFAULT = 2**30  # bytes
VERSION = "1"  # of the files
_ENTRY = re.compile(r"[0-9a-f]{64}\.zvl\.safetensors")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.zvl\.tmp")
_ABANDONED = 3600  # seconds after which nobody writes to a temporary file any more


def data_folder() -> str:
    """The folder for `Disk`, in the extension's own; it may not exist yet."""
    return os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "cache")


def _nbytes(bundle: Bundle) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


class Store:
    """A bounded memory, with a disk behind it or without.

    Values are shared, never copied: nobody writes into what comes out of here.

    Args:
        limit: Bytes to keep in memory at most. One larger value is not kept there at all.
        size: Bytes of a value; default: of a bundle's tensors.
        disk: Keeps every value put as well, and is asked for what memory does not have. Values have to be bundles then.
    """

    def __init__(self, limit: int = DEFAULT, size: Callable[[Any], int] = _nbytes, disk: Disk | None = None):
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

    def get(self, key: Hashable) -> Any:
        """The value, from memory or else from disk, or None."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        disk = self.disk
        value = disk.get(key) if disk is not None else None
        return None if value is None else self._keep(key, value, replace=False)

    def put(self, key: Hashable, value: Any) -> None:
        self._keep(key, value, replace=True)
        disk = self.disk
        if disk is not None:
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
    what can't be written is not kept. The folder is made by the first put. Files of other names in it are never
    touched.

    Args:
        folder: The path.
        limit: Bytes of all files together at most. One larger entry is not kept at all.
    """

    def __init__(self, folder: str, limit: int):
        self.folder = folder
        self.limit = limit
        self._warned = False

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files())

    def files(self) -> list[File]:
        """The entries' files, in no order."""
        return self._list(_ENTRY)

    def get(self, key: Hashable) -> Bundle | None:
        """The bundle, in memory of its own, or None."""
        digest = _digest(key)
        path = self._path(digest)
        try:
            bundle = _read(path, digest, self.limit)
        except Exception:  # noqa: BLE001  the many ways in which damaged JSON and safetensors fail all mean the same
            return None
        if bundle is not None:
            with contextlib.suppress(OSError):  # a read-only folder
                os.utime(path)
        return bundle

    def put(self, key: Hashable, bundle: Bundle) -> None:
        digest = _digest(key)
        path = self._path(digest)
        if _nbytes(bundle) > self.limit or not self._write(path, digest, bundle):
            _remove(path)  # what was put under this key before must not come back
        self._tidy(newest=path)

    def clear(self) -> int:
        """Remove all entries and abandoned temporary files. Returns the number of files removed."""
        return sum(_remove(file.path) for file in self.files() + self._abandoned())

    def _path(self, digest: str) -> str:
        return os.path.join(self.folder, f"{digest}.zvl.safetensors")

    def _write(self, path: str, digest: str, bundle: Bundle) -> bool:
        """Write beside the target and rename, so that no reader ever sees half a file. False: the file is over the
        limit."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        bundle = _separate(bundle)
        temporary = os.path.join(self.folder, f"{uuid.uuid4().hex}.zvl.tmp")
        try:
            os.makedirs(self.folder, exist_ok=True)
            save_file(bundle, temporary, {"zvl_store": VERSION, "key": digest, "checksum": _checksum(bundle)})
            if os.path.getsize(temporary) > self.limit:
                return False
            os.replace(temporary, path)
        except (
            OSError,
            SafetensorError,
        ) as error:  # read-only, full, or the target is open in another process on Windows
            if not self._warned:
                logging.getLogger(__name__).warning("Z-Image VL: nothing can be kept in %s (%s).", self.folder, error)
            self._warned = True
        finally:
            _remove(temporary)
        return True

    def _tidy(self, newest: str) -> None:
        """Remove what is over the limit, `newest` last whatever the clock says, and what a killed process left
        half-written."""
        for file in self._abandoned():
            _remove(file.path)
        files = sorted(self.files(), key=lambda file: (file.path == newest, file.used))
        total = sum(file.size for file in files)
        for file in files:
            if total <= self.limit:
                break
            if _remove(file.path):
                total -= file.size

    def _abandoned(self) -> list[File]:
        return [file for file in self._list(_TEMPORARY) if time.time() - file.used / 1e9 > _ABANDONED]

    def _list(self, names: re.Pattern[str]) -> list[File]:
        """The regular files of these names."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed by another process since
                    if names.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        found.append(File(entry.path, info.st_size, info.st_mtime_ns))
        return found


def _digest(key: Hashable) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()


def _read(path: str, digest: str, limit: int) -> Bundle | None:
    """The bundle of a file, None when it is another key's, another version's, damaged or over the limit.

    Raises:
        Exception: of many kinds, when the file can't be read or parsed.
    """
    from safetensors.torch import load

    if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a pipe would wait for a writer
        return None
    # Read as a whole, not mapped: a mapped file can't be replaced on Windows, and one that another program truncates
    # kills the process.
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            return None
        data = file.read(size)
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    if (metadata["zvl_store"], metadata["key"]) != (VERSION, digest):
        return None
    bundle = load(data)
    return bundle if metadata["checksum"] == _checksum(bundle) else None


def _separate(bundle: Bundle) -> Bundle:
    """The same values, contiguous and none in the memory of another, as safetensors needs them."""
    separate, taken = {}, set()
    for name, tensor in bundle.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return separate


def _checksum(bundle: Bundle) -> str:
    """crc32 of the names, dtypes, shapes and bytes of contiguous tensors: no defence against forgery, only against
    damage."""
    import torch

    checksum = 0
    for name, tensor in sorted(bundle.items()):
        checksum = zlib.crc32(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return str(checksum)


def _remove(path: str) -> bool:
    """Whether there is no such file any more."""
    try:
        os.remove(path)
    except FileNotFoundError:
        pass
    except OSError:  # open in another process on Windows, or a read-only folder
        return False
    return True
