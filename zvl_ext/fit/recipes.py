"""What is learned from: triples of a picture, a prompt that names a part of it, and a reference.

A drawn world can show what a prompt names and, in all it leaves open, what a reference shows. Of photographs nobody has
that picture, but its parts are there: where the reference is another picture, the prompt names all that the picture has
and the reference does not. So whatever the prompt leaves open the reference does show, the picture is always a real one
whose whole caption says what is wanted (`judge`), and captions alone say which is which.

Pure functions on captions and numbers: a seed gives the same examples everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .clauses import Captions


@dataclass(frozen=True)
class Example:
    """One thing to learn from.

    Attributes:
        kind: A key of KINDS.
        picture: The number of the picture that the image model is to make.
        prompt: What is said of it.
        reference: The number of the picture that is the reference.
        view: The seed of the view of it.
    """

    kind: str
    picture: int
    prompt: str
    reference: int
    view: int


@dataclass(frozen=True)
class Among:
    """What examples are made of.

    Attributes:
        captions: Of all pictures.
        pictures: The numbers of those that may be used.
    """

    captions: Captions
    pictures: Sequence[int]

    def others(self, number: int) -> list[int]:
        return [other for other in self.pictures if other != number]


def _named(clauses: Sequence[str]) -> str:
    return ", ".join(clauses)


def same(among: Among, number: int, rng: np.random.Generator) -> tuple[str, int]:
    """Another view of the same picture; the prompt names a part of it, from nothing to all.

    What the prompt leaves open can be had from the reference alone.
    """
    clauses = among.captions.clauses[number]
    count = int(rng.integers(len(clauses) + 1))
    chosen = sorted(rng.choice(len(clauses), count, replace=False).tolist())
    return _named([clauses[i] for i in chosen]), number


def alike(among: Among, number: int, rng: np.random.Generator) -> tuple[str, int]:
    """A picture that has something in common with it; the prompt names what it has not.

    Where none has, a contradicting one.
    """
    every = len(among.captions.clauses[number])
    fitting = [
        (other, only)
        for other in among.others(number)
        if 0 < len(only := among.captions.only_here(number, other)) < every
    ]
    if not fitting:
        return contradicting(among, number, rng)
    other, only = fitting[int(rng.integers(len(fitting)))]
    return _named(only), other


def contradicting(among: Among, number: int, rng: np.random.Generator) -> tuple[str, int]:
    """Any other picture; the prompt names all that it has not. Mostly that is everything, and the reference is to have
    no part in the picture."""
    others = among.others(number)
    other = others[int(rng.integers(len(others)))]
    return _named(among.captions.only_here(number, other)), other


KINDS: dict[str, Callable[[Among, int, np.random.Generator], tuple[str, int]]] = {
    "same": same,
    "alike": alike,
    "contradicting": contradicting,
}


def examples(captions: Captions, pictures: Sequence[int], count: int, seed: int) -> list[Example]:
    """That many examples, of every kind alike, with pictures in turn.

    Args:
        pictures: The numbers of the pictures that may be used, at least two.
    """
    rng = np.random.default_rng(seed)
    among, kinds = Among(captions, pictures), list(KINDS)
    order: list[int] = []
    made = []
    for i in range(count):
        if i % len(kinds) == 0 and not order:
            order = rng.permutation(pictures).tolist()
        kind = kinds[i % len(kinds)]
        number = order[-1]
        if i % len(kinds) == len(kinds) - 1:
            order.pop()  # a picture has one example of each kind before the next comes
        prompt, reference = KINDS[kind](among, number, rng)
        made.append(Example(kind, number, prompt, reference, int(rng.integers(2**31))))
    return made


def parts(count: int, seed: int) -> tuple[list[int], list[int], list[int]]:
    """Pictures divided, by number: to learn from, to decide when to stop, and to say what was gained.

    A picture is in one part alone, whatever its examples are. An eighth decides, an eighth says, at least two each.
    """
    order = np.random.default_rng(seed).permutation(count).tolist()
    few = max(2, count // 8)
    return sorted(order[2 * few :]), sorted(order[:few]), sorted(order[few : 2 * few])
