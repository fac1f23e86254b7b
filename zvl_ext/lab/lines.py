"""Results as JSON, a line each, appended as they are found: whatever ends the process, what is whole can be read."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Any

from ..errors import ZvlError
from ..outside import plain, reason


def read(path: str) -> Iterator[dict[str, Any]]:
    """The objects of a file's lines. A line that was cut off when a run was stopped, or is damaged, is passed over.

    Raises:
        ZvlError: the file is there and can't be read.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(entry, dict):
                    yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise ZvlError(f"{plain(path, 160)} can't be read ({reason(error)}).") from error


def text(entry: dict[str, Any]) -> str:
    """An object as its line."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


class Lines:
    """A file that lines are added to, each in one write.

    Raises:
        ZvlError: it can't be written.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            self._file = open(path, "ab+", buffering=0)  # noqa: SIM115 - closed by `close`
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(max(size - 1, 0))
            self._torn = self._file.read(1) not in (b"", b"\n")  # a run was stopped while it wrote
        except OSError as error:
            raise self._unwritten(error) from error

    def add(self, entry: dict[str, Any]) -> None:
        data = (b"\n" if self._torn else b"") + text(entry).encode("utf-8", "backslashreplace")
        try:
            written = self._file.write(data)
            self._torn = written < len(data)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _unwritten(self, error: OSError) -> ZvlError:
        return ZvlError(f"{plain(self.path, 160)} can't be written ({reason(error)}).")
