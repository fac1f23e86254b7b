"""What little training brings: a few learned numbers beside one weight, and beside a trained adapter."""

from __future__ import annotations

from ....intervals import bootstrap, sign
from ..table import Entry, Missing, Table, with_interval
from .claim import NOT_SHOWN, SHOWN, Claim, Judged, in_part, signed
from .must_show import CHOSEN_ON, MEASURED_ON

KEPT, FILLED = 0.8, 0.6  # of half-specified prompts: of what they name, and of what they leave open


def _half(table: Table, kind: str) -> list[Entry]:
    entries = [e for e in table.part("fitted") if e.row.half and e.row.name.startswith(f"half prompts: {kind}")]
    if not entries:
        raise Missing(f"fitted: {kind}")
    return entries


def _score(entry: Entry, part: slice) -> float:
    return sum(float(entry.metric(name)[part].mean()) for name in ("adherence", "similarity"))


def _best(entries: list[Entry]) -> Entry:
    """The one that keeps and fills most, on every other pair."""
    return max(entries, key=lambda entry: _score(entry, CHOSEN_ON))


def _gaps(entry: Entry, other: Entry) -> tuple[tuple[float, float, float], ...]:
    """How much more an entry keeps and fills, on the pairs that it was not chosen on."""
    return tuple(
        bootstrap((entry.metric(name) - other.metric(name))[MEASURED_ON]) for name in ("adherence", "similarity")
    )


def _beside(entry: Entry, others: list[Entry]) -> tuple[str, list[bool]]:
    """In words how an entry compares with others, and of each whether it is clearly beaten."""
    said, beaten = [], []
    for other in others:
        kept, filled = _gaps(entry, other)
        signs = sign(kept), sign(filled)
        beaten.append(1 in signs and -1 not in signs)
        name = other.row.name.removeprefix("half prompts: ")
        said.append(f"{name}: kept {signed(kept)}, filled {signed(filled)}")
    return "; ".join(said), beaten


def _told(entry: Entry) -> str:
    kept, filled = (bootstrap(entry.metric(name)[MEASURED_ON]) for name in ("adherence", "similarity"))
    name = entry.row.name.removeprefix("half prompts: ")
    return f"{name}: kept {with_interval(kept)}, filled {with_interval(filled)}"


def reaches(table: Table) -> Judged:
    best = _best(_half(table, "profile"))
    kept, filled = (float(best.metric(name)[MEASURED_ON].mean()) for name in ("adherence", "similarity"))
    return _told(best), SHOWN if kept >= KEPT and filled >= FILLED else NOT_SHOWN


def beats_every_weight(table: Table) -> Judged:
    best, others = _best(_half(table, "profile")), _half(table, "one weight")
    numbers, beaten = _beside(best, others)
    return f"{_told(best)}; minus {numbers}", SHOWN if all(beaten) else NOT_SHOWN


def bridges_the_gap(table: Table) -> Judged:
    """The findings: small amounts of training might bridge the quality gap."""
    best = _best(_half(table, "profile"))
    weight, adapter = _best(_half(table, "one weight")), _best(_half(table, "trained adapter"))
    numbers, beaten = _beside(best, [weight, adapter])
    return f"{_told(best)}; minus {numbers}", in_part(beaten)


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
]
SMALL_TRAINING = Claim(
    "Small amounts of training might bridge the quality gap",
    "the profile's best setting, as above, against the best single weight and the best trained adapter, chosen alike: "
    "kept or filled clearly higher, and neither clearly lower",
    bridges_the_gap,
)
