"""What little training brings: the rules on numbers that are made for them, and the pairs that they are measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zvl_ext.lab.evaluation.claims.fitted import FITTED, SMALL_TRAINING
from zvl_ext.lab.evaluation.experiments import FRESH, PROFILE, WEIGHTED, Plan, Row, experiments, fitted, pairs
from zvl_ext.lab.evaluation.table import Entry, Table, difference
from zvl_ext.lab.miniature import family, world

PAIRS = 40


def entry(name: str, kept: float, filled: float, how: str = "settings") -> Entry:
    """A row of half-specified prompts that keeps and fills these shares, over all attributes alike."""

    def shown(share: float) -> str:
        order = np.random.default_rng(5).permutation(PAIRS)
        return "".join("1" if place < round(share * PAIRS) else "0" for place in order)

    row = Row("fitted", f"half prompts: {name}", how, dict(WEIGHTED), PAIRS, half=True, first=FRESH)
    values: dict[str, Any] = {
        "prompt": {a: shown(kept) for a in world.JUDGED},
        "reference": {a: shown(filled) for a in world.JUDGED},
    }
    return Entry(row, values)


CASES = {
    "better in both": ((1.0, 0.95), ["shown", "shown", "holds"]),
    "as a weight is": ((0.85, 0.65), ["shown", "not shown", "holds in part"]),
    "keeps more and fills less": ((1.0, 0.3), ["not shown", "not shown", "does not hold"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rules(case: str) -> None:
    (kept, filled), wanted = CASES[case]
    table = Table(
        [
            entry("profile, 0.2", kept, filled),
            entry("profile, 0.35", 0.2, 0.7),
            entry("one weight, 0.1", 0.85, 0.65),
            entry("one weight, 0.35", 0.5, 0.7),
            entry("trained adapter, scale 1", 0.5, 0.6, "adapter"),
        ]
    )
    assert [claim.judge(table)[1] for claim in (*FITTED, SMALL_TRAINING)] == wanted


def test_the_pairs_are_none_of_those_that_anything_was_chosen_on() -> None:
    rows = [row for row in experiments(Plan()) if row.part == "fitted"]
    before = {str(pair) for pair in pairs(max(row.pairs for row in experiments(Plan()) if not row.first))}
    for row in rows:
        assert row.numbers == range(FRESH, FRESH + Plan().pairs)
        assert len(row.drawn()) == row.pairs
    assert before.isdisjoint(map(str, rows[0].drawn()))


def test_rows_of_other_pairs_have_other_keys_and_are_not_compared() -> None:
    own, other = (Row("fitted", "", "prompt", {}, 4, first=first) for first in (0, FRESH))
    assert own.key != other.key
    assert own.key == Row("another", "name", "prompt", {}, 4).key
    bits = dict.fromkeys(world.JUDGED, "0101")
    with pytest.raises(ValueError, match="other pairs"):
        difference(*(Entry(row, {"prompt": bits, "reference": bits}) for row in (own, other)), "adherence")


def test_a_profile_fitted_anew_is_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext.lab.evaluation import experiments as table

    assert PROFILE in family.profiles()
    (row, *_) = [row for row in fitted(2) if row.values.get("profile")]
    before = row.key
    monkeypatch.setattr(table, "profile_digest", lambda name: "another")
    assert row.key != before
