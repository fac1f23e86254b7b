"""`fit projection`: from texts and described pictures to a projection."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ZvlError
from ..outside import plain, read_regular, reason
from ..projections import Affine, write_projection
from .closed_form import Fit, Moments, best_penalty, explained, mean_alone, procrustes, ridge
from .pairs import Pairs, Readers

if TYPE_CHECKING:
    from ..reference import Reference

METHODS = ("ridge", "procrustes")
FEWEST = 8  # texts and pictures together
HELD = 5  # each fifth decides about the penalty, and says how good the map is
_TEXTS = 2**26  # bytes of a file of texts
_LONGEST = 4000  # characters of one
Bar = Callable[[Sequence[Any], str], Iterable[Any]]  # shows how far it is with what


@dataclass(frozen=True)
class Found:
    """What came of one hidden layer.

    Attributes:
        fit: The map, over all pairs.
        held: Which share of what the text encoder's held rows vary by the map explains that was fitted without them.
        as_it_is: The same without any map; None where the widths differ.
        penalty: Of the ridge regression; None for Procrustes.
    """

    fit: Fit
    held: float
    as_it_is: float | None
    penalty: float | None

    @property
    def gains(self) -> bool:
        """Whether it is nearer to the text encoder than what there is without it."""
        return self.held > max(0.0, self.as_it_is or 0.0)

    def line(self, layer: int) -> str:
        penalty = "" if self.penalty is None else f", penalty {self.penalty:g}"
        without = "they can't be used as they are" if self.as_it_is is None else f"as they are {self.as_it_is:.3f}"
        return (
            f"hidden layer {layer}: explains {self.held:.3f} of the text encoder's held-out rows ({without}{penalty})"
        )


def texts_of(path: str) -> list[str]:
    """A file's lines of some words, each once.

    Raises:
        ZvlError: it can't be read as UTF-8 text.
    """
    try:
        lines = read_regular(path, _TEXTS).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise ZvlError(f"--texts {plain(path, 120)} can't be read as UTF-8 text ({reason(error)}).") from error
    return list(dict.fromkeys(text for line in lines if (text := " ".join(line.split())[:_LONGEST])))


def memory(hidden: int, width: int, layers: int) -> int:
    """Bytes of main memory that the sums and solving them take, both models aside."""
    sums = hidden * hidden + hidden * width
    return 8 * (2 * layers * sums + 4 * hidden * hidden + 2 * hidden * width)


@dataclass
class Gathered:
    """The sums over all pairs.

    Attributes:
        learned, held: By hidden layer.
        first: The text encoder's row at the template's first token.
        texts: How many were read.
    """

    learned: dict[int, Moments]
    held: dict[int, Moments]
    first: torch.Tensor
    texts: int = 0

    @property
    def rows(self) -> int:
        return next(iter(self.learned.values())).rows + next(iter(self.held.values())).rows


def gather(readers: Readers, material: Sequence[tuple[str, Reference | None]], bar: Bar) -> Gathered:
    """Read all texts with both models.

    Args:
        material: Texts, each with the picture that it describes, or None.

    Raises:
        ZvlError: as `Readers.read`.
    """
    made: Gathered | None = None
    for number, (text, picture) in enumerate(bar(material, "reading")):
        pairs = readers.read(text, picture)
        if made is None:
            made = _empty(readers.layers, pairs)
        sums = made.held if number % HELD == 0 else made.learned
        for layer, rows in pairs.x.items():
            sums[layer].add(rows, pairs.y)
        made.texts += 1
    if made is None:
        raise ValueError("there is nothing to read")
    return made


def _empty(layers: Sequence[int], pairs: Pairs) -> Gathered:
    def empty() -> dict[int, Moments]:
        return {layer: Moments.empty(pairs.x[layer].shape[1], pairs.y.shape[1]) for layer in layers}

    return Gathered(empty(), empty(), pairs.first)


def solve(learned: Moments, held: Moments, method: str) -> Found:
    """The map of one hidden layer.

    Args:
        method: One of METHODS.
    """
    penalty = best_penalty(learned, held) if method == "ridge" else None

    def fitted(pairs: Moments) -> Fit:
        return procrustes(pairs) if penalty is None else ridge(pairs, penalty)

    base, as_it_is = mean_alone(learned), None
    if len(learned.x) == len(learned.y):
        same = Fit(torch.eye(len(learned.x), dtype=torch.float64), torch.zeros_like(learned.y))
        as_it_is = explained(same, held, base)
    return Found(fitted(learned + held), explained(fitted(learned), held, base), as_it_is, penalty)


def solved(gathered: Gathered, method: str, bar: Bar) -> Iterator[tuple[int, Found]]:
    """As `solve`, by hidden layer."""
    for layer in bar(list(gathered.learned), "solving"):
        yield layer, solve(gathered.learned[layer], gathered.held[layer], method)


def write(path: str, gathered: Gathered, found: dict[int, Found], about: dict[str, Any]) -> None:
    """Write the projection.

    Args:
        about: Names out of `projections.ABOUT`, besides what is known here.

    Raises:
        ZvlError: it can't be written.
    """
    maps = {layer: Affine(each.fit.weight.float(), each.fit.bias.float()) for layer, each in found.items()}
    held = {str(layer): round(each.held, 4) for layer, each in found.items()}
    write_projection(path, maps, gathered.first, {**about, "rows": str(gathered.rows), "explained": held})


def check_count(texts: int) -> None:
    """Raise ZvlError where there are too few to learn from."""
    if texts < FEWEST:
        raise ZvlError(
            f"There {'is' if texts == 1 else 'are'} {texts or 'no'} text{'' if texts == 1 else 's'} to learn from; "
            f"{FEWEST} are needed at least, better thousands."
        )


def name_of(path: str) -> str:
    """A folder's or a file's own name."""
    return os.path.basename(os.path.abspath(path))
