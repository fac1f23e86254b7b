"""What is said of a fit."""

import numpy as np
import pytest

from zvl_ext.fit.recipes import Example
from zvl_ext.fit.report import gain, reading

RNG = np.random.default_rng(0)
EXAMPLES = [Example(kind, picture, "", 0, 0) for picture in range(20) for kind in ("same", "alike")]


def judged(less: float, noise: float = 0.01):
    single = 0.4 + 0.1 * RNG.random(len(EXAMPLES))
    learned = single - less + noise * RNG.standard_normal(len(EXAMPLES))
    return gain(EXAMPLES, single + 0.1, single, 0.2, learned)


@pytest.mark.parametrize(("less", "clear"), [(0.02, True), (0.0, False), (-0.02, False)])
def test_a_gain_is_clear_where_its_interval_is_above_nothing(less, clear):
    made = judged(less)
    assert made.clear is clear
    assert made.gained[1] <= made.gained[0] <= made.gained[2]
    assert made.gained[0] == pytest.approx(less, abs=0.01)


def test_pictures_are_what_is_drawn_again_not_examples():
    """Two examples of one picture are no two measurements."""
    twice = [each for each in EXAMPLES for _ in range(2)]
    single = np.repeat(RNG.random(len(EXAMPLES)), 2)
    learned = single - np.repeat(RNG.standard_normal(len(EXAMPLES)), 2)
    once = gain(EXAMPLES, single[::2], single[::2], 0.2, learned[::2])
    assert gain(twice, single, single, 0.2, learned).gained == pytest.approx(once.gained)


def test_it_is_told_by_kind_as_plain_data_and_in_lines():
    made = judged(0.02)
    assert set(made.by_kind) == {"same", "alike"}
    assert made.told()["pictures"] == 20
    assert len(made.lines()) == 4
    assert "0.2" in made.lines()[0]


@pytest.mark.parametrize(("more", "clear"), [(0.02, True), (0.0, False), (-0.02, False)])
def test_what_is_learned_of_reading_is_what_a_reference_helps_more(more, clear):
    before = 0.01 + 0.01 * RNG.random(len(EXAMPLES))
    made = reading(EXAMPLES, before, before + more + 0.01 * RNG.standard_normal(len(EXAMPLES)))
    assert made.clear is clear
    assert made.more[0] == pytest.approx(more, abs=0.01)
    assert made.after - made.before == pytest.approx(made.more[0])
    assert "takes off the loss" in made.line()
