"""What of the reference is taken over: its look without its shape, and its shape without its look."""

from __future__ import annotations

import functools

import numpy as np

from ....intervals import Interval, bootstrap
from ....presets import START
from ...miniature.world import ATTRIBUTES, JUDGED
from ..rows import NAMED
from ..table import Entry, Missing, Table, with_interval
from .claim import NOT_SHOWN, SHOWN, Claim, Judged
from .must_show import CHOSEN_ON, MEASURED_ON

KEPT = 0.9  # of what the prompt alone shows of what it names


def _shares(entry: Entry, whose: str, attributes: list[str]) -> np.ndarray:
    """The mean over attributes, for each pair."""
    return np.mean([entry.metric(f"{whose} {name}") for name in attributes], axis=0)


def taken_beside(table: Table, names: str, wanted: str) -> Judged:
    """Whether some setting takes an attribute from the reference, where the prompt names others, and keeps those.

    Args:
        names: What the prompts name, a key of NAMED.
        wanted: The attribute of the reference.
    """
    said = sorted(NAMED[names], key=JUDGED.index)
    base = f"prompt names the {names}"
    plain = table.named("roles", f"{base}: prompt alone")
    settings = [e for e in table.part("roles") if e.row.names == names and e.row.how == "settings"]
    if not settings:
        raise Missing(base)
    floor = KEPT * _shares(plain, "prompt", said)

    def keeps(entry: Entry, part: slice) -> bool:
        return float(_shares(entry, "prompt", said)[part].mean()) >= float(floor[part].mean())

    able = [entry for entry in settings if keeps(entry, CHOSEN_ON)]
    if not able:
        return "no setting keeps what the prompt names", NOT_SHOWN
    best = max(able, key=lambda entry: float(entry.metric(f"reference {wanted}")[CHOSEN_ON].mean()))
    got, without, kept = (
        bootstrap(values[MEASURED_ON])
        for values in (
            best.metric(f"reference {wanted}"),
            plain.metric(f"reference {wanted}"),
            _shares(best, "prompt", said),
        )
    )
    chance = 1 / len(ATTRIBUTES[wanted])
    numbers = (
        f"{best.row.name.rpartition(': ')[2]}: the reference's {wanted} {with_interval(got)}; chance {chance:.2f}, "
        f"prompt alone {with_interval(without)}; {', '.join(said)} kept {with_interval(kept)} of "
        f"{_shares(plain, 'prompt', said)[MEASURED_ON].mean():.2f}"
    )
    return numbers, SHOWN if _clear(got, without, chance) and keeps(best, MEASURED_ON) else NOT_SHOWN


def fills_in(table: Table, preset: str, kept: float, filled: float) -> Judged:
    """Whether a preset keeps what half-specified prompts name and fills what they leave open."""
    entry = table.named("half-specified", preset)
    other = table.named("half-specified", START)
    got = {name: entry.interval(name) for name in ("adherence", "similarity")}
    numbers = (
        f"kept {with_interval(got['adherence'])}, filled {with_interval(got['similarity'])}; {START} "
        f"{with_interval(other.interval('adherence'))} and {with_interval(other.interval('similarity'))}"
    )
    return numbers, SHOWN if got["adherence"][0] >= kept and got["similarity"][0] >= filled else NOT_SHOWN


def _clear(got: Interval, without: Interval, chance: float) -> bool:
    return got[1] > max(chance, without[2])


TAKEN_OVER = [
    *(
        Claim(
            f"Where the prompt names the shape, the reference gives its {look}",
            f"the best setting that keeps {KEPT:g} of the shape that the prompt alone shows, chosen on every other "
            "pair: on the rest clearly above chance and the prompt alone, and it keeps as much",
            functools.partial(taken_beside, names="shape", wanted=look),
        )
        for look in ("colour", "background", "style")
    ),
    Claim(
        "The preset Fill in keeps what a prompt names and fills in what it leaves open",
        "half-specified prompts: kept ≥ 0.80 and filled ≥ 0.60",
        functools.partial(fills_in, preset="Fill in", kept=0.8, filled=0.6),
    ),
    Claim(
        "Where the prompt names the look, the reference gives its shape",
        f"the same, keeping {KEPT:g} of colour, background and style",
        functools.partial(taken_beside, names="look", wanted="shape"),
    ),
]
