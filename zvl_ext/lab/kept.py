"""A folder of work that is done, a line for each piece of it. Whatever ends the process, it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import ZvlError
from ..folder import held, remove
from ..outside import plain, reason
from . import lines

_LOCK = ".lock"

Line = dict[str, Any]


class Kept:
    """What is done, one process at a time.

    Args:
        name: The file of its lines.
        is_whole: Whether a line that was read has all that is needed, its `key` among it; others are left aside.
        within: Folders in it that files are written to as well.

    Attributes:
        done: Lines of what is done, by their keys.
    """

    def __init__(self, path: str, name: str, is_whole: Callable[[Line], bool], within: tuple[str, ...] = ()):
        self.path = path
        self.done: dict[str, Line] = {}
        self._file, self._is_whole = os.path.join(path, name), is_whole
        self._folders = (path, *(os.path.join(path, folder) for folder in within))
        self._log: lines.Lines | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Have it for oneself, with what earlier runs left.

        Raises:
            ZvlError: it can't be written, or another run is at work in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                for folder in self._folders:
                    os.makedirs(folder, exist_ok=True)
                mine = stack.enter_context(held(os.path.join(self.path, _LOCK)))
                if mine:
                    self._tidy()
            except OSError as error:
                raise ZvlError(f"--out {plain(self.path, 160)} can't be written ({reason(error)}).") from error
            if not mine:
                raise ZvlError(f"Another run is at work in {plain(self.path, 160)}. Wait for it, or end it.")
            self.done = {line["key"]: line for line in lines.read(self._file) if self._is_whole(line)}
            self._log = stack.enter_context(lines.Lines(self._file))
            yield

    def keep(self, line: Line) -> None:
        """A piece is done.

        Raises:
            ZvlError: the disk is full, or the like.
        """
        if self._log is None:
            raise ValueError("the folder is not open")
        self._log.add(line)
        self.done[line["key"]] = line

    def _tidy(self) -> None:
        """Remove what a killed run was writing: nobody else is at work here."""
        for folder in self._folders:
            for name in os.listdir(folder):
                if name.endswith(".tmp"):
                    remove(os.path.join(folder, name))
