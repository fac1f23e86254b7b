"""What little training brings: learned numbers beside what needs no training, and beside a trained adapter."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ....intervals import Interval, bootstrap, sign
from ..table import Entry, Missing, Table, with_interval
from .claim import NOT_SHOWN, SHOWN, Claim, Judged, in_part, signed
from .must_show import CHOSEN_ON, MEASURED_ON

KEPT, FILLED = 0.8, 0.6  # of half-specified prompts: of what they name, and of what they leave open
HALF, FULL = "half prompts: ", "full prompts: "  # how the names of rows begin
TRAINING_FREE = ("one weight", "blend")
LORAS = ("LoRA", "LoRA, blend")
SMALL = ("profile", "projection", *LORAS)  # what little training makes
ADAPTER = "trained adapter"
CONSTANT, EASED = "constant", "ease out"
_ALL = slice(None)
_NEXT = "next to it, mixed so that they fill, or keep, as much"
KINDS = (*TRAINING_FREE, *SMALL, ADAPTER)  # how a row's name goes on


def _kind(name: str) -> str:
    """A setting's kind: the longest that its name begins with."""
    return max((kind for kind in KINDS if name.startswith(kind)), key=len, default="")


def _half(table: Table, *kinds: str) -> list[Entry]:
    """The rows of half-specified prompts of some kinds."""
    found = []
    for kind in kinds:
        of_kind = [e for e in table.part("fitted") if e.row.half and _kind(e.row.name.removeprefix(HALF)) == kind]
        if not of_kind:
            raise Missing(f"fitted: {kind}")
        found += of_kind
    return found


def _of_curve(entries: list[Entry], curve: str) -> list[Entry]:
    return [each for each in entries if each.row.values.get("curve", CONSTANT) == curve]


def _score(entry: Entry) -> float:
    return sum(float(entry.metric(name)[CHOSEN_ON].mean()) for name in ("adherence", "similarity"))


def best_of(table: Table, *kinds: str) -> Entry:
    """The setting that keeps and fills most, on every other pair.

    Args:
        kinds: Of KINDS.

    Raises:
        Missing: one was not measured.
    """
    return max(_half(table, *kinds), key=_score)


def _gaps(entry: Entry, other: Callable[[str], np.ndarray]) -> tuple[Interval, ...]:
    """How much more an entry keeps and fills, on the pairs that it was not chosen on.

    Args:
        other: The measures of what it is compared with, as `Entry.metric`.
    """
    return tuple(bootstrap((entry.metric(name) - other(name))[MEASURED_ON]) for name in ("adherence", "similarity"))


def _beside(entry: Entry, others: list[Entry]) -> tuple[str, list[bool]]:
    """In words how an entry compares with others, and of each whether it is clearly beaten."""
    said, beaten = [], []
    for other in others:
        kept, filled = _gaps(entry, other.metric)
        signs = sign(kept), sign(filled)
        beaten.append(1 in signs and -1 not in signs)
        said.append(f"{other.row.name.removeprefix(HALF)}: kept {signed(kept)}, filled {signed(filled)}")
    return "; ".join(said), beaten


def _told(entry: Entry, on: slice = MEASURED_ON) -> str:
    """What an entry keeps and fills, by its name.

    Args:
        on: The pairs.
    """
    kept, filled = (bootstrap(entry.metric(name)[on]) for name in ("adherence", "similarity"))
    return f"{entry.row.name.removeprefix(HALF)}: kept {with_interval(kept)}, filled {with_interval(filled)}"


def reaches(table: Table) -> Judged:
    """On all pairs: nothing is chosen, every setting that does is named."""
    every = _half(table, "profile")
    reached = [e for e in every if e.metric("adherence").mean() >= KEPT and e.metric("similarity").mean() >= FILLED]
    numbers = f"{len(reached)} of {len(every)} settings"
    if reached:
        numbers += f": {'; '.join(_told(each, _ALL) for each in reached)}"
    return numbers, SHOWN if reached else NOT_SHOWN


def _gaps_where(entry: Entry, others: list[Entry], alike: str) -> tuple[Interval, ...]:
    """How much more an entry keeps and fills than others where they are alike in one of the two: the two of them that
    are next to it, mixed so that they are as it is. Next and alike by the pairs that it was chosen on.

    Args:
        alike: The measure in which they are.
    """

    def mean(one: Entry) -> float:
        return float(one.metric(alike)[CHOSEN_ON].mean())

    others = sorted(others, key=mean)
    place = float(np.interp(mean(entry), [mean(each) for each in others], range(len(others))))
    below = int(place)
    share, less, more = place - below, others[below], others[min(below + 1, len(others) - 1)]
    return _gaps(entry, lambda name: (1 - share) * less.metric(name) + share * more.metric(name))


def beats_weights(curve: str, table: Table) -> Judged:
    """The best profile of a curve beside one weight of that curve: where one weight fills as much, it has to keep
    clearly more, and where one keeps as much, to fill clearly more."""
    profiles, weights = (_of_curve(_half(table, kind), curve) for kind in ("profile", "one weight"))
    if not profiles or not weights:
        raise Missing(f"fitted: {curve}")
    best = max(profiles, key=_score)
    kept, fills = _gaps_where(best, weights, "similarity")
    keeps, filled = _gaps_where(best, weights, "adherence")
    numbers = (
        f"{_told(best)}; minus one weight where it fills as much: kept {signed(kept)}, filled {signed(fills)}; where "
        f"it keeps as much: kept {signed(keeps)}, filled {signed(filled)}"
    )
    better = sign(kept) > 0 and sign(fills) >= 0 and sign(filled) > 0 and sign(keeps) >= 0
    return numbers, SHOWN if better else NOT_SHOWN


def lora_beats_all(table: Table) -> Judged:
    best = best_of(table, *LORAS)
    numbers, beaten = _beside(best, [best_of(table, kind) for kind in (*TRAINING_FREE, ADAPTER)])
    return f"{_told(best)}; minus {numbers}", SHOWN if all(beaten) else NOT_SHOWN


def bridges_the_gap(table: Table) -> Judged:
    """The findings: small amounts of training might bridge the quality gap."""
    best = best_of(table, *SMALL)
    others = [_told(each) for each in (best_of(table, kind) for kind in SMALL) if each is not best]
    numbers, beaten = _beside(best, [best_of(table, *TRAINING_FREE), best_of(table, ADAPTER)])
    return f"{_told(best)}; minus {numbers}; the others' best: {'; '.join(others)}", in_part(beaten)


FITTED = [
    Claim(
        "A profile keeps what half-specified prompts name, and fills what they leave open",
        f"at some of its weights and curves kept ≥ {KEPT:.2f} and filled ≥ {FILLED:.2f}, on all pairs; all that do are "
        "named",
        reaches,
    ),
    Claim(
        "… and does so better than every single weight",
        f"constant weights; the profile's that keeps and fills most on every other pair, against the two single ones "
        f"{_NEXT}; on the rest it keeps clearly more where they fill as much, and fills clearly more where they keep "
        "as much",
        functools.partial(beats_weights, CONSTANT),
    ),
    Claim(
        "… also than one that eases out along the steps",
        "the same with weights that ease out, the profile's as well",
        functools.partial(beats_weights, EASED),
    ),
    Claim(
        "A LoRA reads references better than anything without training, and than the trained adapter",
        "the best setting of each (a LoRA of either engine, one weight, blend, adapter), chosen on every other pair: "
        "on the rest the LoRA keeps or fills clearly more than each of the others, and neither clearly less",
        lora_beats_all,
    ),
]
SMALL_TRAINING = Claim(
    "Small amounts of training might bridge the quality gap",
    "the best setting of all profiles, projections and LoRAs, as above, against the best without training and the best "
    "of the trained adapter, chosen alike: kept or filled clearly higher, and neither clearly lower",
    bridges_the_gap,
)
