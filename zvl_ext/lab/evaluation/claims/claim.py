"""A claim with the rule that decides about it, and the words that verdicts are made of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ....intervals import Interval
from ..table import Entry, Table

HOLDS, FAILS, PARTLY = "holds", "does not hold", "holds in part"
SHOWN, NOT_SHOWN = "shown", "not shown"
NOTHING_TO_EXPLAIN = "nothing to explain here"
BY_SINK, NOT_BY_SINK = "explained by the sink", "not explained by the sink"

PROMPT_ALONE = ("baselines", "prompt alone")  # the part and the name of its row
Judged = tuple[str, str]  # the numbers, and the verdict


class Claim(NamedTuple):
    """A claim, and what decides about it.

    Attributes:
        text: What is claimed.
        rule: What decides, in words.
        judge: The rule. It takes the table, or nothing where it is bound to one, and raises Missing where a row that
            it needs was not measured.
    """

    text: str
    rule: str
    judge: Callable[..., Judged]

    def about(self, table: Table) -> Claim:
        """The same claim, its rule bound to a table."""
        return self._replace(judge=functools.partial(self.judge, table))


def in_part(met: Collection[bool]) -> str:
    """The verdict where a claim is made of several."""
    return HOLDS if all(met) else PARTLY if any(met) else FAILS


def by_signs(signs: Collection[int], wanted: int = 1) -> str:
    """The verdict where one clear difference is enough, and a clear one the other way spoils it."""
    if wanted not in signs:
        return FAILS
    return HOLDS if -wanted not in signs else PARTLY


def signed(interval: Interval) -> str:
    """A difference with its interval, as the tables show it."""
    return f"{interval[0]:+.2f} [{interval[1]:+.2f}, {interval[2]:+.2f}]"


def signed_list(gaps: Mapping[str, Interval]) -> str:
    """Differences by the name of their measure."""
    return ", ".join(f"{name} {signed(gap)}" for name, gap in gaps.items())


def text_and_image_at_highest_alpha(table: Table) -> tuple[Entry, Entry]:
    """The recommended setting with text positions and the one with image positions."""
    highest = max(entry.row.alpha for entry in table.curve("blend text, global"))
    text, image = (table.named("main", name, highest) for name in ("blend text, global", "blend image, per-dim"))
    return text, image


def normalizations(table: Table, positions: str, alpha: float) -> dict[str, Entry]:
    """Blend with text or image positions under each normalization, at an alpha or at the highest one measured."""
    by_alpha = table.varied("normalization", f"blend {positions}")
    return by_alpha.get(alpha) or by_alpha[max(by_alpha)]
