"""What little training brings: learned numbers beside what needs no training, and beside a trained adapter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....intervals import Interval, bootstrap, sign
from ..table import Entry, Missing, Table, with_interval
from .claim import NOT_SHOWN, SHOWN, Claim, Judged, in_part, signed
from .must_show import CHOSEN_ON, MEASURED_ON

KEPT, FILLED = 0.8, 0.6  # of half-specified prompts: of what they name, and of what they leave open
HALF, FULL = "half prompts: ", "full prompts: "  # how the names of rows begin
TRAINING_FREE = ("one weight", "blend")
SMALL = ("profile", "projection", "LoRA")  # what little training makes
ADAPTER = "trained adapter"
KINDS = (*TRAINING_FREE, *SMALL, ADAPTER)  # how a row's name goes on


def _half(table: Table, *kinds: str, part: str = "fitted") -> list[Entry]:
    """The rows of half-specified prompts of some kinds."""
    found = []
    for kind in kinds:
        of_kind = [e for e in table.part(part) if e.row.half and e.row.name.startswith(HALF + kind)]
        if not of_kind:
            raise Missing(f"{part}: {kind}")
        found += of_kind
    return found


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


def _told(entry: Entry) -> str:
    kept, filled = (bootstrap(entry.metric(name)[MEASURED_ON]) for name in ("adherence", "similarity"))
    return f"{entry.row.name.removeprefix(HALF)}: kept {with_interval(kept)}, filled {with_interval(filled)}"


def reaches(table: Table) -> Judged:
    best = best_of(table, "profile")
    kept, filled = (float(best.metric(name)[MEASURED_ON].mean()) for name in ("adherence", "similarity"))
    return _told(best), SHOWN if kept >= KEPT and filled >= FILLED else NOT_SHOWN


def beats_every_weight(table: Table) -> Judged:
    best, others = best_of(table, "profile"), _half(table, "one weight")
    numbers, beaten = _beside(best, others)
    return f"{_told(best)}; minus {numbers}", SHOWN if all(beaten) else NOT_SHOWN


def keeps_more_at_the_same_filling(table: Table) -> Judged:
    """Against the two weights that fill a little less and a little more, mixed so that they fill as much."""
    profile, weights = (_half(table, kind, part="beside one weight") for kind in ("profile", "one weight"))

    def filled(entry: Entry) -> float:
        return float(entry.metric("similarity")[CHOSEN_ON].mean())

    best = max(profile, key=_score)
    weights = sorted(weights, key=filled)
    place = float(np.interp(filled(best), [filled(each) for each in weights], range(len(weights))))
    below = int(place)
    share, less, more = place - below, weights[below], weights[min(below + 1, len(weights) - 1)]
    kept, fills = _gaps(best, lambda name: (1 - share) * less.metric(name) + share * more.metric(name))
    numbers = f"{_told(best)}; minus one weight where it fills as much: kept {signed(kept)}, filled {signed(fills)}"
    return numbers, SHOWN if sign(kept) > 0 and sign(fills) >= 0 else NOT_SHOWN


def bridges_the_gap(table: Table) -> Judged:
    """The findings: small amounts of training might bridge the quality gap."""
    best = best_of(table, *SMALL)
    others = [_told(each) for each in (best_of(table, kind) for kind in SMALL) if each is not best]
    numbers, beaten = _beside(best, [best_of(table, *TRAINING_FREE), best_of(table, ADAPTER)])
    return f"{_told(best)}; minus {numbers}; the others' best: {'; '.join(others)}", in_part(beaten)


FITTED = [
    Claim(
        "A profile keeps what half-specified prompts name, and fills what they leave open",
        f"its best weight and curve, chosen on every other pair: on the rest kept ≥ {KEPT:.2f} and filled ≥ "
        f"{FILLED:.2f}",
        reaches,
    ),
    Claim(
        "… and does so better than every single weight",
        "the same setting: against each single weight kept or filled clearly higher, and neither clearly lower",
        beats_every_weight,
    ),
    Claim(
        "Where one weight fills as much, a profile keeps more of what the prompt names",
        "the profile's weight that keeps and fills most on every other pair, against the two single weights that fill "
        "next to as much, mixed so that they fill as much there; on the rest kept clearly higher, filled not clearly "
        "lower",
        keeps_more_at_the_same_filling,
    ),
]
SMALL_TRAINING = Claim(
    "Small amounts of training might bridge the quality gap",
    "the best setting of all profiles, projections and LoRAs, as above, against the best without training and the best "
    "of the trained adapter, chosen alike: kept or filled clearly higher, and neither clearly lower",
    bridges_the_gap,
)
