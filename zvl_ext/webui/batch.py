"""A batch of references: the web UI makes one picture after another, and each takes the next reference.

The web UI counts its pictures before it calls the scripts of a generation, so it is told of more of them before that.
It then shows the progress, stops, saves and makes grids as with any batch count.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

from ..errors import ZvlError, untitled
from ..hosts import forge
from ..reference import open_reference
from .request import asked

_WIDENED = "zvl_batch"  # on p


class _Widened(NamedTuple):
    """What a generation's batch count was, and what it is for that many references."""

    before: int
    count: int
    after: int


def widen(p: Any, args: tuple | list) -> None:
    """Give a generation its batch count once for each reference of a batch. What is wrong is said later, by its run."""
    narrow(p)
    if forge.enclosing(p) is not None or isinstance(p.prompt, list):
        return
    with contextlib.suppress(ZvlError):
        chosen = asked(p, args)
        if chosen is not None and chosen.reference_batch is not None:
            count = len(chosen.reference_batch)
            setattr(p, _WIDENED, _Widened(p.n_iter, count, p.n_iter * count))
            p.n_iter *= count


def narrow(p: Any) -> None:
    """Give it back its own batch count: scripts use a generation again."""
    widened = p.__dict__.pop(_WIDENED, None)
    if widened is not None and p.n_iter == widened.after:
        p.n_iter = widened.before


def with_same_seeds(p: Any) -> None:
    """Have every reference of the batch begin with the same seeds, so that the pictures can be compared."""
    if not spreads(p):
        return
    count = p.__dict__[_WIDENED].count
    for name in ("all_seeds", "all_subseeds"):
        seeds = getattr(p, name, None)
        if seeds and len(seeds) == _pictures(p) * count:
            setattr(p, name, list(seeds[: _pictures(p)]) * count)


def spreads(p: Any) -> bool:
    """Whether a generation makes pictures with one reference of a batch after another."""
    return _WIDENED in p.__dict__


def turn(p: Any) -> int:
    """The place in the batch of the reference whose pictures are being made; of a pass within a picture, that one's.

    Raises:
        ZvlError: the generation was not told of the batch.
    """
    outer = forge.enclosing(p)
    whose = p if outer is None else outer
    widened = whose.__dict__.get(_WIDENED)
    if widened is None:
        raise ZvlError(
            "A batch of references can't be made together with a list of prompts. Choose one of the two."
            if isinstance(p.prompt, list)
            else "A batch of references can't be made here, where the web UI makes pictures in a way of its own."
        )
    return min(getattr(whose, "iteration", 0) // widened.before, widened.count - 1)


def digests(sources: tuple) -> list[str]:
    """Of all references of a batch: one that can't be read is said before the first picture is made.

    Raises:
        ZvlError: which one it is, and what is wrong.
        Stopped: the user has ended the batch.
    """
    found = []
    for number, source in enumerate(sources, 1):
        forge.check_interrupted()
        try:
            found.append(open_reference(source).digest)
        except ZvlError as error:
            raise ZvlError(f"Batch, picture {number} of {len(sources)}: {untitled(str(error))}") from None
    return found


class OfEach(str):
    """A parameter that each picture of a batch has its own of. The web UI calls it for a text; the grid's parameters
    are those of the first picture, whose seed they have."""

    _first: str

    def __new__(cls, own: str, first: str) -> OfEach:
        made = super().__new__(cls, own)
        made._first = first
        return made

    def __call__(self, use_main_prompt: bool = False, **_: Any) -> str:
        return self._first if use_main_prompt else str(self)


def line(p: Any) -> str:
    """How many pictures there will be."""
    count = p.__dict__[_WIDENED].count
    return f"a batch of references: {count} × {_pictures(p)} = {count * _pictures(p)} pictures."


def _pictures(p: Any) -> int:
    """How many pictures every reference of the batch has."""
    widened: _Widened = p.__dict__[_WIDENED]
    return widened.before * int(p.batch_size)
