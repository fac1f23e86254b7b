"""Work that is handed out, and kept as it comes back: a sweep's cells, the rows of the evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ..errors import ZvlError
from .crew import Unfit

_TICK = 2.0  # seconds after which workers are asked anew how much they can take
_HOPELESS = 10  # pieces that fail before any is done: then all will

Piece = TypeVar("Piece")


class Workers(Protocol):
    """Who does jobs."""

    @property
    def hands(self) -> int:
        """How many jobs are done at the same time."""

    @property
    def width(self) -> int:
        """How many jobs are worth handing over at a time."""

    def submit(self, job: Any) -> Future[Any]:
        """Have a job done. What can't be done is a ZvlError; crew.Unfit where nothing can."""

    def close(self) -> None:
        """End them, also in the middle of a job."""


@dataclass
class Done(Generic[Piece]):
    """What a run has done: how many pieces, and those that could not be, each with why."""

    made: int = 0
    failed: list[tuple[Piece, str]] = field(default_factory=list)


def handed_out(
    pieces: Iterable[Piece],
    workers: Workers,
    job: Callable[[Piece], Any],
    keep: Callable[[Piece, Any], None],
    on_piece: Callable[[Piece], None] = lambda piece: None,
) -> Done[Piece]:
    """Have pieces of work done, in about the order in which they come.

    Args:
        job: What is sent for a piece.
        keep: Takes a piece with what came back.
        on_piece: Told of each that is done, or has failed.

    Raises:
        ZvlError: nothing can be done, or kept, any more.
    """
    done, left = Done[Piece](), iter(pieces)
    waiting: dict[Future[Any], Piece] = {}
    while True:
        for piece in itertools.islice(left, max(workers.width - len(waiting), 0)):
            waiting[workers.submit(job(piece))] = piece
        if not waiting:
            return done
        for future in wait(waiting, _TICK, FIRST_COMPLETED).done:
            piece = waiting.pop(future)
            try:
                result = future.result()
            except Unfit:
                raise
            except ZvlError as error:
                done.failed.append((piece, str(error)))
                if not done.made and len(done.failed) >= _HOPELESS:
                    raise
            else:
                keep(piece, result)
                done.made += 1
            on_piece(piece)


def attended(
    work: Callable[[Callable[[float], Any]], Done[Piece]],
    total: float,
    kept: float,
    unit: str,
    state: Callable[[], str],
    say: Callable[[str], None],
    stopped: Callable[[], None] = lambda: None,
) -> Done[Piece]:
    """Do work under a bar that shows the time left; whatever ends it, what is done by then is told.

    Args:
        work: Is given what moves the bar on by a number of units.
        total, kept: Units of all the work, and of what earlier runs did.
        state: What is done, in words.
        stopped: Called at Ctrl-C.
    """
    from tqdm import tqdm

    with tqdm(total=total, initial=kept, unit=unit, disable=None, smoothing=0.1) as bar:
        try:
            return work(bar.update)
        except ZvlError as error:
            raise ZvlError(f"{error} {state()}") from error
        except KeyboardInterrupt:
            bar.close()
            stopped()
            say(f"Stopped. {state()}")
            raise
