"""How strongly the image model looks at a reference: over the sampling steps and over its blocks. Plain arithmetic.

What a weight does to attention is in `attention`; here is what the weight is, at which step and in which block.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ZvlError
from .profiles import Profile

ALL = "all"

# How the weight goes on between its first and its last step: from the share of that way, 0 to 1, to a factor, 0 to 1.
CURVES: dict[str, Callable[[float], float]] = {
    "constant": lambda way: 1.0,
    "ease in": lambda way: (1.0 - math.cos(math.pi * way)) / 2.0,
    "ease out": lambda way: (1.0 + math.cos(math.pi * way)) / 2.0,
    "ease in-out": lambda way: math.sin(math.pi * way),
    "reversed": lambda way: 1.0 - math.sin(math.pi * way),
}

# Parts of the image model's blocks, as shares of their number.
NAMED_BLOCKS: dict[str, tuple[float, float]] = {
    ALL: (0.0, 1.0),
    "early": (0.0, 1 / 3),
    "middle": (1 / 3, 2 / 3),
    "late": (2 / 3, 1.0),
}
_PART = re.compile(
    r"(?P<what>[a-z]+|\d+(?:\s*-\s*\d+)?)(?:\s*:\s*(?P<factor>\d+(?:\.\d+)?|\.\d+))?", re.IGNORECASE | re.ASCII
)
_WANTED = "all, early, middle, late, or block numbers such as 0-9 or 0-9:0.5, 20-29"
_MOST = 8.0  # a larger factor is a slip of the keyboard


@dataclass(frozen=True)
class BlockRange:
    """Some of the image model's blocks and the factor their weight is multiplied with.

    Attributes:
        first, end: Block numbers from 0, the end excluded; of a named part, shares of the number of blocks.
        shares: Whether they are shares.
    """

    first: float
    end: float
    factor: float
    shares: bool

    def covers(self, block: int, blocks: int) -> bool:
        if not self.shares:
            return self.first <= block < self.end
        return round(self.first * blocks) <= block < round(self.end * blocks)


def block_ranges(text: str) -> tuple[BlockRange, ...]:
    """The ranges that a text names: names and numbers separated by commas, each with a factor behind a colon.

    >>> [(r.first, r.end, r.factor) for r in block_ranges("0-9:0.5, 20-29")]
    [(0.0, 10.0, 0.5), (20.0, 30.0, 1.0)]

    Raises:
        ZvlError: the text is not of that form.
    """
    ranges = []
    for part in (text or ALL).split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise _refused(text)
        what, factor = match["what"].lower(), float(match["factor"] or 1.0)
        if factor > _MOST or (what[0].isalpha() and what not in NAMED_BLOCKS):
            raise _refused(text)
        if what in NAMED_BLOCKS:
            ranges.append(BlockRange(*NAMED_BLOCKS[what], factor, shares=True))
            continue
        first, _, last = (each.strip() for each in what.partition("-"))
        if len(first) > 3 or len(last) > 3 or int(last or first) < int(first):
            raise _refused(text)
        ranges.append(BlockRange(int(first), int(last or first) + 1, factor, shares=False))
    return tuple(ranges)


def _refused(text: str) -> ZvlError:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return ZvlError(f"Z-Image VL: blocks must be {_WANTED}, not {shown!r}.")


def block_factors(text: str, blocks: int) -> tuple[float, ...]:
    """The factor of each of that many blocks; a block that several parts name has the last one's, one that none names
    0.

    >>> block_factors("early, late:0.5", 6)
    (1.0, 1.0, 0.0, 0.0, 0.5, 0.5)
    """
    ranges = block_ranges(text)
    named = ([each.factor for each in ranges if each.covers(block, blocks)] for block in range(blocks))
    return tuple(factors[-1] if factors else 0.0 for factors in named)


def check_blocks(text: str, blocks: int) -> None:
    """Raise ZvlError where a part names none of an image model's blocks."""
    for each in block_ranges(text):
        if not each.shares and each.first >= blocks:
            raise ZvlError(
                f"There is no block {each.first:g}: this image model has {blocks}, numbered from 0 to {blocks - 1}."
            )


@dataclass(frozen=True)
class Weighting:
    """The weight of one reference.

    Attributes:
        weight: What the image model's attention to the reference's rows is multiplied with; 1 is as the model does by
            itself.
        start, end: Between which shares of the sampling steps; outside, the picture is as without the reference.
        curve: A member of CURVES.
        blocks: As `block_ranges` reads it.
        profile: What it is multiplied with by block and head; None: 1.
    """

    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    curve: str = "constant"
    blocks: str = ALL
    profile: Profile | None = None

    @property
    def idle(self) -> bool:
        """Whether the reference has no part in the picture at all."""
        nowhere = all(each.factor == 0.0 for each in block_ranges(self.blocks))
        return self.weight == 0.0 or self.start >= self.end or nowhere

    @property
    def plain(self) -> bool:
        """Whether the image model runs as it does by itself: every weight is 1, at every step and in every block."""
        even = self.profile is None or self.profile.idle
        return even and self.constant and self.weight == 1.0 and set(self.factors(1000)) == {1.0}

    @property
    def constant(self) -> bool:
        """Whether all steps are alike."""
        return (self.start, self.end, self.curve) == (0.0, 1.0, "constant")

    def at(self, way: float) -> float:
        """The weight at a share of the steps that are done, from 0 to just below 1."""
        if not self.start <= way < self.end:
            return 0.0
        return self.weight * CURVES[self.curve]((way - self.start) / (self.end - self.start))

    def part(self, way: float) -> float:
        """How much of the prompt's own rows after they have read the reference there is, against the plain ones.

        With a weight below 1 they go back to the plain ones, so that a weight towards 0 tends to the plain picture.
        """
        return min(1.0, self.at(way))

    def factors(self, blocks: int) -> tuple[float, ...]:
        """The factor of each of the image model's main blocks, without the profile's by head."""
        return block_factors(self.blocks, blocks)


# What a reference has for itself: each is an option's name as well. A profile is one for the whole picture.
WEIGHTING = tuple(each.name for each in dataclasses.fields(Weighting) if each.name != "profile")


def way(step: int, steps: int) -> float:
    """The share of the steps that are done when a step begins, from 0 to just below 1; the first step is 0."""
    return min(max(step, 0), max(steps, 1) - 1) / max(steps, 1)
