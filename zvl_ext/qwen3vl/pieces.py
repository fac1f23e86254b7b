"""Files of weights, read in pieces.

They are never mapped into memory. A mapped file that somebody shortens or writes anew (a download over the old file)
ends the process that looks at it next, with a bus error that nothing can catch, and no check before the look helps: it
may happen in between. A piece that is read is a copy: too short, it is an error like any other.
"""

from __future__ import annotations

import os
from types import TracebackType

from ..errors import ZvlError
from ..outside import open_regular, reason

Version = tuple[int, int]  # a file's bytes, and when they were last written, in nanoseconds


class Pieces:
    """One file, open for reading.

    Args:
        path: The file.
        owner: What the panel calls the model.
        version: What the file has to be, still; None where it is opened for the first time.

    Attributes:
        version: What it is.

    Raises:
        ZvlError: it can't be opened, or it is not what it was; also at the end of the context.
    """

    def __init__(self, path: str, owner: str, version: Version | None = None):
        base = os.path.basename(path)
        self._named = owner if owner.endswith(base) else f"{owner}: {base}"
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise ZvlError(f"{self._named} can't be read ({reason(error)}).") from error
        self.version = self._version()
        if version is not None and version != self.version:
            self.close()
            raise self._changed()

    def read(self, start: int, size: int) -> bytes:
        """Bytes from a place on, exactly so many."""
        data = bytearray(size)
        self.read_into(start, memoryview(data))
        return bytes(data)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer of bytes with what stands from a place on."""
        try:
            self._file.seek(start)
            done = 0
            while done < len(buffer):
                count = self._file.readinto(buffer[done:])  # type: ignore[attr-defined]  # a BufferedReader
                if not count:
                    raise self._changed()
                done += count
        except OSError as error:
            raise ZvlError(f"{self._named} can't be read ({reason(error)}).") from error

    def check(self) -> None:
        """Raise ZvlError if the file was written since it was opened: what was read may be of both."""
        if self._version() != self.version:
            raise self._changed()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.check()
        finally:
            self.close()

    def _version(self) -> Version:
        info = os.fstat(self._file.fileno())
        return info.st_size, info.st_mtime_ns

    def _changed(self) -> ZvlError:
        return ZvlError(f"{self._named} has been changed since it was opened. Try again when it is whole.")
