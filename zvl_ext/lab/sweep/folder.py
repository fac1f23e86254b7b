"""The folder of a sweep: a picture and a line for each cell that is done."""

from __future__ import annotations

import hashlib
import os
from typing import Any

from ...output import written
from .. import lines
from ..kept import Kept

LINES, PICTURES, ABOUT = "cells.jsonl", "pictures", "sweep.json"


class Folder(Kept):
    """What is done of a sweep; of other sweeps into this folder as well."""

    def __init__(self, path: str):
        super().__init__(path, LINES, _is_whole, within=(PICTURES,))

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
        with written(self.picture(line["key"])) as temporary, open(temporary, "wb") as file:
            file.write(picture)
        self.keep({**line, "sha256": hashlib.sha256(picture).hexdigest()})

    def finish(self, table: list[dict[str, Any]]) -> None:
        """Put the lines into the sweep's order, each once; those of other sweeps behind them."""
        keys = {line["key"] for line in table}
        others = [line for key, line in self.done.items() if key not in keys]
        with written(self._file) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as f:
            f.writelines(map(lines.text, [*table, *others]))


def _is_whole(line: dict[str, Any]) -> bool:
    kinds = {"key": str, "sha256": str, "place": dict, "metrics": dict, "notes": list}
    return all(isinstance(line.get(name), kind) for name, kind in kinds.items()) and line["key"].isalnum()
