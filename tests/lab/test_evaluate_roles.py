"""What of the reference is taken over: the prompts that name a part, and the rule on numbers that are made for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from wording import named

from zvl_ext.lab.evaluation.claims.roles import TAKEN_OVER, taken_beside
from zvl_ext.lab.evaluation.experiments import NAMED, ROLES, WEIGHTED, Plan, Row, experiments, pairs
from zvl_ext.lab.evaluation.row_changes import ROW_CHANGES
from zvl_ext.lab.evaluation.table import Entry, Table
from zvl_ext.lab.miniature import world
from zvl_ext.options import Settings

PAIRS = 40


@pytest.mark.parametrize("names", NAMED)
def test_a_prompt_names_these_attributes_and_no_others(names: str) -> None:
    for pair in pairs(12):
        text = Row("", "", "prompt", names=names).prompt(pair)
        assert text == Row("", "", "prompt", names=names).prompt(pair)
        said = {attribute for attribute, values in named(text).items() if values}
        assert said & set(world.JUDGED) == NAMED[names], text


def test_every_setting_that_may_divide_is_one_of_the_products() -> None:
    rows = [row for row in experiments(Plan().of(4)) if row.part == "roles"]
    assert len(rows) == len(NAMED) * (len(ROLES) + len(ROW_CHANGES) + 1)
    for row in rows:
        Settings.from_mapping(row.values)
    assert len({row.key for row in rows}) == len(rows)


def entry(name: str, prompt: dict[str, float], reference: dict[str, float], how: str = "settings") -> Entry:
    """A row of prompts that name the shape; by attribute the share of pairs that show the prompt's (the
    reference's)."""

    def shown(share: float) -> str:
        order = np.random.default_rng(3).permutation(PAIRS)
        return "".join("1" if place < round(share * PAIRS) else "0" for place in order)

    row = Row("roles", f"prompt names the shape: {name}", how, dict(WEIGHTED), PAIRS, names="shape")
    values: dict[str, Any] = {
        "prompt": {a: shown(prompt.get(a, 0.0)) for a in world.JUDGED},
        "reference": {a: shown(reference.get(a, 0.0)) for a in world.JUDGED},
    }
    return Entry(row, values)


@pytest.mark.parametrize(
    ("kept", "taken", "wanted"),
    [(0.9, 0.8, "shown"), (0.9, 0.15, "not shown"), (0.6, 0.9, "not shown")],
    ids=["keeps and takes", "takes nothing", "loses the shape"],
)
def test_the_rule(kept: float, taken: float, wanted: str) -> None:
    table = Table(
        [
            entry("prompt alone", {"shape": 0.95}, {"colour": 0.12}, "prompt"),
            entry("weight 1", {"shape": kept}, {"colour": taken}),
            entry("weight 0.2", {"shape": 0.2}, {"colour": 1.0}),
        ]
    )
    numbers, verdict = taken_beside(table, "shape", "colour")
    assert verdict == wanted, numbers


def test_each_claim_is_about_one_attribute() -> None:
    assert len({claim.text for claim in TAKEN_OVER}) == len(TAKEN_OVER) == 5
