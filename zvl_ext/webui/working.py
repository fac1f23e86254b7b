"""Long work for a page: done in a thread of its own, with what comes of it on the way, and an end at any time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import in_one_line

_PATIENCE = 0.5  # seconds after which a page looks whether it still waits
Turn = list[int]  # of one page, with one number: who has begun under another is not wanted any more


@dataclass(frozen=True)
class Done:
    """The work is done."""

    result: Any


def worked(work: Callable[[Callable[[Any], None]], Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    """What the work puts out, piece by piece, and a `Done` at the end; what it raises is raised here.

    Args:
        work: Called with what takes a piece.
        stopped: Whether nobody waits any more; then nothing more comes, and the work ends by itself.
    """
    pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def run() -> None:
        try:
            with in_one_line():
                pieces.put(Done(work(pieces.put)))
        except BaseException as error:  # noqa: BLE001  told where the pieces are waited for
            pieces.put(error)

    threading.Thread(target=run, name="zvl works", daemon=True).start()
    while True:
        try:
            piece = pieces.get(timeout=_PATIENCE)
        except queue.Empty:
            if stopped():  # in the queue behind a picture, or in a long pass
                return
            continue
        if isinstance(piece, BaseException):
            raise piece
        yield piece
        if isinstance(piece, Done):
            return


def next_turn(turn: Turn) -> int:
    """A new number for a page: what it has begun before is not wanted any more."""
    turn[0] += 1
    return turn[0]
