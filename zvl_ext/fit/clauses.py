"""What a caption says, clause by clause, and what two captions have in common. Pure functions on text.

A caption is taken apart where it is punctuated: nothing is known of its language. How much a word tells is how few
captions have it (inverse document frequency), so that "a" and "background" tell nothing and "navy" does.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_BETWEEN = re.compile(r"[,;:.!?\n\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f]+(?=\s|$|[^\x00-\x7f])|\n+")
_WORD = re.compile(r"\w+")
ALIKE = 0.5  # share of what a clause tells that another caption has to have, for the clause to be said there as well


def clauses(caption: str) -> list[str]:
    """A caption's clauses in their order, those of no words left out.

    >>> clauses("A red circle, in the middle; flat style.")
    ['A red circle', 'in the middle', 'flat style']
    """
    return [part.strip() for part in _BETWEEN.split(caption) if _WORD.search(part)]


def words(text: str) -> frozenset[str]:
    """The words of a text, without their capitals."""
    return frozenset(_WORD.findall(text.casefold()))


class Captions:
    """The captions of a folder's pictures, each taken apart once.

    Args:
        texts: One for each picture, each of some words.
    """

    def __init__(self, texts: Sequence[str]):
        self.clauses = [clauses(text) or [text.strip()] for text in texts]
        self.words = [words(text) for text in texts]
        found = Counter(word for each in self.words for word in each)
        self._tells = {word: math.log(len(texts) / count) for word, count in found.items()}

    def __len__(self) -> int:
        return len(self.clauses)

    def said_too(self, clause: str, other: int) -> bool:
        """Whether another picture's caption says what a clause does: most of what the clause tells is there."""
        own = words(clause)
        every = sum(self._tells[word] for word in own)
        return every > 0 and sum(self._tells[word] for word in own & self.words[other]) > ALIKE * every

    def only_here(self, number: int, other: int) -> list[str]:
        """The clauses of a picture's caption that another's does not say too."""
        return [clause for clause in self.clauses[number] if not self.said_too(clause, other)]
