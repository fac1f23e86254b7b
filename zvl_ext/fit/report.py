"""What was gained: said only of pictures that neither were learned from nor decided anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..intervals import LEVEL, Interval, bootstrap, sign

if TYPE_CHECKING:
    import numpy as np

    from .recipes import Example


@dataclass(frozen=True)
class Gain:
    """What was learned beside what needs no learning, by its loss on the same examples with the same noise.

    Attributes:
        pictures: How many it is said of.
        without: The loss without the reference.
        single: That of one weight for all heads, the best of those that were tried.
        weight: That weight.
        learned: That of what was learned.
        gained: How much less the learned one's is than the single one's, picture by picture, with its interval.
        by_kind: The same by the examples' kind.
    """

    pictures: int
    without: float
    single: float
    weight: float
    learned: float
    gained: Interval
    by_kind: dict[str, Interval]

    @property
    def clear(self) -> bool:
        """Whether anything was gained, by its interval."""
        return sign(self.gained) > 0

    def told(self) -> dict[str, Any]:
        """As plain data, rounded."""
        return {key: _rounded(value) for key, value in asdict(self).items()}

    def lines(self) -> list[str]:
        """For a person."""
        percent = 100 * self.gained[0] / self.single
        return [
            f"On {self.pictures} pictures kept out, distance from what the image model makes of the whole caption: "
            f"{self.without:.4f} without the reference, {self.single:.4f} with one weight ({self.weight:g}), "
            f"{self.learned:.4f} as learned.",
            f"Gained over one weight: {_written(self.gained)} ({percent:.2g} %; {LEVEL:.0%} interval over pictures).",
            *(f"  {kind}: {_written(each)}" for kind, each in self.by_kind.items()),
        ]


@dataclass(frozen=True)
class Reading:
    """How much a reference helps with something learned, beside how much it helps without: whatever else is learned of
    the pictures, such as how they look, helps with and without a reference alike and is not in it.

    Attributes:
        before: How much less the loss is with the reference than without, without what was learned.
        after: The same with it.
        more: How much more that is, picture by picture, with its interval.
    """

    before: float
    after: float
    more: Interval

    @property
    def clear(self) -> bool:
        """Whether references are read better, by the interval."""
        return sign(self.more) > 0

    def told(self) -> dict[str, Any]:
        """As plain data, rounded."""
        return {"reading": _rounded(asdict(self))}

    def line(self) -> str:
        """For a person."""
        took = f"{self.before:.5f} before, {self.after:.5f} as learned"
        return f"What the reference takes off the loss: {took}; more by {_written(self.more)}."


def reading(examples: Sequence[Example], before: np.ndarray, after: np.ndarray) -> Reading:
    """Put together what references take off the loss.

    Args:
        examples: What it is of.
        before, after: Losses without the reference less those with it [examples], without what was learned and with it.
    """
    return Reading(float(before.mean()), float(after.mean()), bootstrap(_by_picture(examples, after - before)))


def gain(
    examples: Sequence[Example], without: np.ndarray, single: np.ndarray, weight: float, learned: np.ndarray
) -> Gain:
    """Put losses together.

    Args:
        examples: What the losses are of.
        without, single, learned: Losses [examples], as `Gain`'s.
        weight: The single one.
    """
    less = single - learned
    kinds = dict.fromkeys(each.kind for each in examples)
    return Gain(
        len({each.picture for each in examples}),
        float(without.mean()),
        float(single.mean()),
        weight,
        float(learned.mean()),
        bootstrap(_by_picture(examples, less)),
        {kind: bootstrap(_by_picture(examples, less, kind)) for kind in kinds},
    )


def _by_picture(examples: Sequence[Example], values: np.ndarray, kind: str = "") -> np.ndarray:
    """The mean of each picture's examples: those of one picture are no independent measurements."""
    import numpy as np

    of: dict[int, list[float]] = {}
    for each, value in zip(examples, values):
        if not kind or each.kind == kind:
            of.setdefault(each.picture, []).append(float(value))
    return np.array([np.mean(found) for found in of.values()])


def _written(interval: Interval) -> str:
    return "{:.5f} [{:.5f}, {:.5f}]".format(*interval)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value
