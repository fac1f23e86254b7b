"""Used references on disk, so that the parameters of a picture bring its reference back after a restart."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable

from PIL import Image

from ..errors import ZvlError
from ..folder import remove
from ..reference import open_file
from .infotext import DIGEST

_KEY = re.compile(rf"[0-9a-f]{{{DIGEST}}}")
_FILE = re.compile(rf"{_KEY.pattern}\.zvl\.png")
_TEMPORARY = re.compile(r"[0-9a-f]{32}\.zvl\.tmp")
_ABANDONED = 3600  # seconds after which nobody writes to a temporary file any more


class ReferenceFolder:
    """A bounded folder of PNG files, named by digest; the one that was used longest ago goes first.

    It never fails: what can't be written is not kept, and what is not the picture of its name is a miss. It is made by
    the first put, and only files of its own names are counted and removed.

    Args:
        folder: Where the files lie.
        limit: Gives the bytes to keep at most; 0 keeps nothing.
    """

    def __init__(self, folder: str, limit: Callable[[], int]):
        self.folder = folder
        self._limit = limit
        self._lock = threading.Lock()
        self._warned = False

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(size for _, size, _ in self._files())

    def get(self, key: str) -> Image.Image | None:
        """The reference whose digest begins so."""
        if not _KEY.fullmatch(key):
            return None
        path = self._path(key)
        with contextlib.suppress(ZvlError):
            reference = open_file(path)
            if reference.digest.startswith(key):
                self._touch(path)
                return reference.image
        return None

    def put(self, key: str, image: Image.Image) -> None:
        """Keep a reference, and remove what is over the limit then."""
        if not _KEY.fullmatch(key):
            return
        limit = self._limit()
        path = self._path(key)
        with self._lock:
            if limit and not self._touch(path):
                self._write(path, image, limit)
            self._tidy(path, limit)

    def clear(self) -> None:
        """Remove all that is kept, and what a killed process left half-written."""
        with self._lock:
            for path, _, _ in [*self._files(), *self._files(_TEMPORARY)]:
                remove(path)

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, f"{key}.zvl.png")

    @staticmethod
    def _touch(path: str) -> bool:
        """Note that a file is used now; whether there is one."""
        with contextlib.suppress(OSError):
            os.utime(path)
            return True
        return False

    def _write(self, path: str, image: Image.Image, limit: int) -> None:
        encoded = io.BytesIO()
        image.save(encoded, "PNG", compress_level=1)  # half again as large as with 6, in a fifth of the time
        if encoded.tell() > limit:
            return
        temporary = os.path.join(self.folder, f"{uuid.uuid4().hex}.zvl.tmp")
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(encoded.getbuffer())
            os.replace(temporary, path)
        except OSError as error:  # read-only, full
            remove(temporary)
            if not self._warned:
                logging.getLogger(__name__).warning(
                    "Z-Image VL: no references can be kept in %s (%s).", self.folder, error.strerror or error
                )
            self._warned = True

    def _tidy(self, newest: str, limit: int) -> None:
        for path, _, used in self._files(_TEMPORARY):
            if time.time() - used / 1e9 > _ABANDONED:
                remove(path)
        files = sorted(self._files(), key=lambda file: (file[0] == newest, file[2]))
        total = sum(size for _, size, _ in files)
        for path, size, _ in files:
            if total <= limit:
                break
            if remove(path):
                total -= size

    def _files(self, names: re.Pattern[str] = _FILE) -> list[tuple[str, int, int]]:
        """Path, bytes and last use, in nanoseconds, of the regular files of these names."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # removed by another process since
                    if names.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        info = entry.stat(follow_symlinks=False)
                        found.append((entry.path, info.st_size, info.st_mtime_ns))
        return found
