"""The folder of a sweep: a picture and a line for each cell that is done. Whatever ends the process, both are whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import ZvlError
from ...folder import held, remove
from ...output import written
from ...outside import plain, reason
from .. import lines

LINES, PICTURES, ABOUT = "cells.jsonl", "pictures", "sweep.json"
_LOCK = ".lock"


class Folder:
    """What is done of a sweep. One process at a time works in it.

    Attributes:
        done: Lines of the cells that are done, by their keys; of other sweeps into this folder as well.
    """

    def __init__(self, path: str):
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        self._log: lines.Lines | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Folder]:
        """Have it for oneself, with what earlier runs left.

        Raises:
            ZvlError: it can't be written, or another sweep is at work in it.
        """
        with contextlib.ExitStack() as stack:
            try:
                os.makedirs(os.path.join(self.path, PICTURES), exist_ok=True)
                mine = stack.enter_context(held(os.path.join(self.path, _LOCK)))
                if mine:
                    self._tidy()
            except OSError as error:
                raise ZvlError(f"--out {plain(self.path, 160)} can't be written ({reason(error)}).") from error
            if not mine:
                raise ZvlError(f"Another sweep is at work in {plain(self.path, 160)}. Wait for it, or end it.")
            self.done = {line["key"]: line for line in lines.read(self._lines) if _is_whole(line)}
            self._log = stack.enter_context(lines.Lines(self._lines))
            yield self

    @property
    def _lines(self) -> str:
        return os.path.join(self.path, LINES)

    def picture(self, key: str) -> str:
        """Where a cell's picture is."""
        return os.path.join(self.path, PICTURES, f"{key}.png")

    def holds(self, key: str) -> bool:
        """Whether a cell is done and its picture is as it was made."""
        line = self.done.get(key)
        if line is None:
            return False
        try:
            with open(self.picture(key), "rb") as file:
                return hashlib.sha256(file.read()).hexdigest() == line["sha256"]
        except OSError:
            return False

    def add(self, line: dict[str, Any], picture: bytes) -> None:
        """A cell is done: its picture, then its line, which says so.

        Raises:
            ZvlError: the disk is full, or the like.
        """
        key = line["key"]
        with written(self.picture(key)) as temporary, open(temporary, "wb") as file:
            file.write(picture)
        self.measured({**line, "sha256": hashlib.sha256(picture).hexdigest()})

    def measured(self, line: dict[str, Any]) -> None:
        """Another line of a cell whose picture is there."""
        if self._log is None:
            raise ValueError("the folder is not open")
        self._log.add(line)
        self.done[line["key"]] = line

    def finish(self, table: list[dict[str, Any]]) -> None:
        """Put the lines into the sweep's order, each once; those of other sweeps behind them."""
        keys = {line["key"] for line in table}
        others = [line for key, line in self.done.items() if key not in keys]
        with written(self._lines) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as f:
            f.writelines(map(lines.text, [*table, *others]))

    def _tidy(self) -> None:
        """Remove what a killed run was writing: nobody else is at work here."""
        for folder in (self.path, os.path.join(self.path, PICTURES)):
            for name in os.listdir(folder):
                if name.endswith(".tmp"):
                    remove(os.path.join(folder, name))


def _is_whole(line: dict[str, Any]) -> bool:
    kinds = {"key": str, "sha256": str, "place": dict, "metrics": dict, "notes": list}
    return all(isinstance(line.get(name), kind) for name, kind in kinds.items()) and line["key"].isalnum()


def missing(folder: Folder, cells: Iterable[Any]) -> Iterator[Any]:
    """The cells that are not done."""
    return (cell for cell in cells if not folder.holds(cell.key))
