"""What little training brings: the rules on numbers that are made for them, and the pairs that they are measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zvl_ext.lab.evaluation.bench import Bench
from zvl_ext.lab.evaluation.claims.fitted import FITTED, HALF, KINDS, SMALL_TRAINING
from zvl_ext.lab.evaluation.experiments import (
    FRESH,
    LORA,
    LORA_OF_BLEND,
    PROFILE,
    PROJECTION,
    WEIGHTED,
    Plan,
    experiments,
    fitted,
)  # fmt: skip
from zvl_ext.lab.evaluation.report_fitted import fitted_table, learned_for
from zvl_ext.lab.evaluation.rows import Row, pairs
from zvl_ext.lab.evaluation.table import Entry, Table, difference
from zvl_ext.lab.miniature import family, learned, world

PAIRS = 40


def entry(
    name: str, kept: float, filled: float, how: str = "settings", half: bool = True, part: str = "fitted", **more: Any
) -> Entry:
    """A row that keeps and fills these shares, over all attributes alike; of half-specified prompts, or full ones."""

    def shown(share: float) -> str:
        order = np.repeat(np.random.default_rng(5).permutation(PAIRS // 2), 2)  # every other pair as the rest
        return "".join("1" if place < round(share * PAIRS / 2) else "0" for place in order)

    asked = "half" if half else "full"
    row = Row(part, f"{asked} prompts: {name}", how, dict(WEIGHTED), PAIRS, half=half, first=FRESH, **more)
    values: dict[str, Any] = {
        "prompt": {a: shown(kept) for a in world.JUDGED},
        "reference": {a: shown(filled) for a in world.JUDGED},
        "distance": [1.5] * PAIRS,
        "cosine": [0.25] * PAIRS,
        "frechet": 77.7,
    }
    return Entry(row, values)


CASES = {
    "better in both": ((1.0, 0.95), ["shown", "holds"]),
    "as a weight is": ((0.85, 0.65), ["shown", "holds in part"]),
    "keeps more and fills less": ((1.0, 0.3), ["not shown", "does not hold"]),
}
REACHES, BEATS, BEATS_EASED, LORA_BEATS = FITTED


OTHERS = [
    entry("one weight, 0.1", 0.85, 0.65),
    entry("one weight, 0.35", 0.5, 0.7),
    entry("blend, 0.1", 0.8, 0.6),
    entry("projection, blend, 0.2", 0.2, 0.6),
    entry("LoRA, 0.5", 0.3, 0.5),
    entry("LoRA, blend, 0.5", 0.3, 0.4),
    entry("trained adapter, scale 1", 0.5, 0.6, "adapter"),
]


@pytest.mark.parametrize("case", CASES)
def test_the_rules(case: str) -> None:
    (kept, filled), wanted = CASES[case]
    table = Table([entry("profile, 0.2", kept, filled), entry("profile, 0.35", 0.2, 0.7), *OTHERS])
    assert [claim.judge(table)[1] for claim in (REACHES, SMALL_TRAINING)] == wanted


@pytest.mark.parametrize("curve", ["", ", ease out"])
@pytest.mark.parametrize(
    ("kept", "filled", "verdict"),
    [
        (0.9, 0.8, "shown"),  # one weight keeps 0.5 there, and fills 0.6 where it keeps most
        (0.65, 0.7, "not shown"),
        (0.5, 0.7, "not shown"),
        (0.8, 0.6, "not shown"),
        (1.0, 0.6, "not shown"),  # keeps more, but fills what the weakest one does
        (1.0, 0.8, "shown"),
        (0.5, 0.9, "not shown"),  # fills more, but keeps what the strongest one does
        (1.0, 0.3, "not shown"),  # fills less than any weight
    ],
)
def test_a_profile_is_better_than_one_weight_in_both_or_not(kept: float, filled: float, verdict: str, curve: str):
    rows = [("one weight, 0.1", 0.8, 0.6), ("one weight, 0.35", 0.5, 0.8), ("profile, 0.2", kept, filled)]
    values = {"curve": "ease out"} if curve else {}
    others = [entry("one weight, 0.15, ease out" if not curve else "one weight, 0.15", 1.0, 1.0)]
    others[0].row.values["curve"] = "constant" if curve else "ease out"
    own = [entry(name + curve, *shares) for name, *shares in rows]
    for each in own:
        each.row.values.update(values)
    numbers, decided = (BEATS_EASED if curve else BEATS).judge(Table(own + others))
    assert decided == verdict, "weights of the other curve are not asked"
    assert numbers.startswith(f"profile, 0.2{curve}: kept {kept:.2f}")


@pytest.mark.parametrize(
    ("kept", "filled", "verdict"),
    [(1.0, 0.9, "shown"), (0.85, 0.85, "shown"), (0.85, 0.65, "not shown"), (1.0, 0.4, "not shown")],
)
def test_a_lora_is_better_than_each_of_the_others_or_not(kept: float, filled: float, verdict: str) -> None:
    others = [each for each in OTHERS if "LoRA" not in each.row.name]
    numbers, decided = LORA_BEATS.judge(
        Table([entry("LoRA, 1", kept, filled), entry("LoRA, blend, 1", 0.5, 0.5), *others])
    )
    assert decided == verdict
    assert "minus one weight, 0.1: kept" in numbers
    assert "trained adapter, scale 1: kept" in numbers


@pytest.mark.parametrize("kind", ["projection, blend, 0.2", "LoRA, 0.5", "LoRA, blend, 0.5"])
def test_whatever_was_learned_may_bridge_the_gap(kind: str) -> None:
    others = [each for each in OTHERS if each.row.name != HALF + kind]
    table = Table([entry("profile, 0.2", 0.3, 0.3), entry(kind, 1.0, 0.95), *others])
    numbers, verdict = SMALL_TRAINING.judge(table)
    assert numbers.startswith(f"{kind}: kept 1.00")
    assert "profile, 0.2: kept 0.30" in numbers
    assert verdict == "holds"


def test_what_needs_no_training_is_more_than_one_weight() -> None:
    better = [entry("blend, 0.1", 1.0, 1.0), *(each for each in OTHERS if "half prompts: blend" not in each.row.name)]
    numbers, verdict = SMALL_TRAINING.judge(Table([entry("profile, 0.2", 0.85, 0.65), *better]))
    assert "minus blend, 0.1: kept -0." in numbers
    assert verdict == "holds in part"


def test_the_table_has_a_line_for_each_way() -> None:
    entries = [
        entry("prompt alone", 0.9, 0.1, "prompt"),
        entry("profile, 0.2", 0.85, 0.65),
        entry("one weight, 0.1", 0.85, 0.65),
        entry("one weight, 0.35", 0.5, 0.7),
        entry("LoRA, 0.5", 0.9, 0.6, lora=LORA),
        entry("trained adapter, scale 1", 0.5, 0.6, "adapter"),
    ]
    full = [entry(each.row.name.removeprefix(HALF), 0.4, 0.2, each.row.how, False) for each in entries[:3]]
    header, lines = fitted_table(Table(entries + full), family.WEIGHTS)
    assert {len(line) for line in lines} == {len(header)}
    by_name = {line[0].strip("*"): dict(zip(header, line)) for line in lines}
    assert len(by_name) == len(entries)
    own = by_name["profile, 0.2"]
    assert own["half: kept"].startswith("0.85 [")
    assert own["half: filled"].startswith("0.65 [")
    assert own["half: lost"].startswith("0.65 [")
    assert own["half: Fréchet"] == "77.7"
    assert own["full: adherence"].startswith("0.40 [")
    assert by_name["LoRA, 0.5"]["full: adherence"] == ""
    assert by_name["prompt alone"]["parameters"] == "0"
    assert by_name["trained adapter, scale 1"]["parameters"] == "111,000"
    best = {line[0].strip("*") for line in lines if line[0].startswith("**")}
    assert best == {"profile, 0.2", "one weight, 0.1", "LoRA, 0.5", "trained adapter, scale 1"}


def test_lost_is_what_the_prompt_names_and_the_reference_has_instead() -> None:
    row = Row("fitted", "", "prompt", {}, 1, half=True)
    (pair,) = row.drawn()
    named, other = sorted(pair.said), sorted(set(world.JUDGED) - pair.said)
    shown = {named[0]: "1", named[1]: "0", other[0]: "1", other[1]: "1"}
    made = Entry(row, {"prompt": dict.fromkeys(world.JUDGED, "0"), "reference": shown})
    assert made.metric("lost").tolist() == [0.5]
    assert made.metric("similarity").tolist() == [1.0]


def test_the_pairs_are_none_of_those_that_anything_was_chosen_on() -> None:
    rows = [row for row in experiments(Plan()) if row.part == "fitted"]
    before = {str(pair) for pair in pairs(max(row.pairs for row in experiments(Plan()) if not row.first))}
    for row in rows:
        assert row.numbers == range(FRESH, FRESH + Plan().pairs * (4 if row.half else 1))
        assert len(row.drawn()) == row.pairs
    assert before.isdisjoint(map(str, rows[0].drawn()))


def test_rows_of_other_pairs_have_other_keys_and_are_not_compared() -> None:
    own, other = (Row("fitted", "", "prompt", {}, 4, first=first) for first in (0, FRESH))
    assert own.key != other.key
    assert own.key == Row("another", "name", "prompt", {}, 4).key
    bits = dict.fromkeys(world.JUDGED, "0101")
    with pytest.raises(ValueError, match="other pairs"):
        difference(*(Entry(row, {"prompt": bits, "reference": bits}) for row in (own, other)), "adherence")


SHIPPED = (("profile", PROFILE), ("projection", PROJECTION), ("lora", LORA), ("lora", LORA_OF_BLEND))


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_what_is_fitted_anew_is_another_row(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext.lab.evaluation import rows as table

    (row, *_) = [row for row in fitted(2) if row.learned == {kind: name}]
    before = row.key
    monkeypatch.setattr(table, "learned", lambda kind, name: learned.Learned("another", 1, 1.0))
    assert row.key != before


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_what_is_shipped_tells_how_it_was_made(kind: str, name: str) -> None:
    from zvl_ext.tensor_files import read

    (row, *_) = [row for row in fitted(2) if row.learned == {kind: name}]
    told = learned_for(row, family.WEIGHTS)["learned"]
    assert told["parameters"] > 20
    assert told["seconds"] > 1
    _, metadata = read(learned.files(kind)[name])
    command = {"profile": "weights", "projection": "projection", "lora": "lora"}[kind]
    assert metadata["command"].startswith(f"zvl fit {command}")


def test_every_kind_has_rows_of_both_sorts_of_prompts() -> None:
    names = [row.name for row in fitted(2)]
    assert len(set(names)) == len(names)
    for kind in KINDS:
        both = [
            [name[len(HALF) :] for name in names if name.startswith(f"{how} prompts: {kind}")]
            for how in ("half", "full")
        ]
        assert both[0] == both[1] != []


def test_a_lora_acts_on_its_own_rows_alone() -> None:
    pytest.importorskip("peft")
    bench = Bench(family.WEIGHTS, 2)
    values = WEIGHTED | {"weight": 0.5}
    row, own = Row("", "", "settings", values, 2), Row("", "", "settings", values, 2, lora=LORA)
    before, with_it, after = ([each.tobytes() for each in bench.pictures(which)] for which in (row, own, row))
    assert before == after
    assert before[0] != with_it[0]
    assert row.key != own.key


def test_a_projection_acts_on_its_own_rows_alone() -> None:
    bench = Bench(family.WEIGHTS, 1)
    values = WEIGHTED | {"engine": "blend", "weight": 0.5}
    plain, own = (
        bench.conditioning(Row("", "", "settings", values | more, 1), 0, 1) for more in ({}, {"projection": PROJECTION})
    )
    assert plain.rows.shape == own.rows.shape
    assert not plain.rows.equal(own.rows)
