"""The weight over the sampling steps and over the image model's blocks."""

from __future__ import annotations

import math

import pytest

from zvl_ext.weighting import ALL, CURVES, NAMED_BLOCKS, Weighting, block_factors, block_ranges, way

STEPS = 8


def over(weighting: Weighting, steps: int = STEPS) -> list[float]:
    """The weight at each step."""
    return [weighting.at(way(step, steps)) for step in range(steps)]


# --- steps


def test_a_step_begins_with_the_share_of_the_steps_that_are_done() -> None:
    assert [way(step, 4) for step in range(4)] == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("step", "steps", "wanted"), [(-1, 4, 0.0), (4, 4, 0.75), (99, 4, 0.75), (3, 0, 0.0)])
def test_a_step_that_is_none_has_the_nearest_ones_share(step: int, steps: int, wanted: float) -> None:
    """Samplers that call the model twice a step count further than they said."""
    assert way(step, steps) == wanted


def test_a_constant_weight() -> None:
    assert over(Weighting(0.6)) == [0.6] * STEPS


@pytest.mark.parametrize(
    ("start", "end", "steps"),
    [
        (0.0, 1.0, range(8)),
        (0.0, 0.5, range(4)),
        (0.5, 1.0, range(4, 8)),
        (0.25, 0.75, range(2, 6)),
        (0.3, 0.8, range(3, 7)),  # 3/8 is the first step that is not before the start, 6/8 the last before the end
        (0.0, 0.01, range(1)),
        (0.9, 0.95, range(0)),  # no step begins there
        (0.5, 0.5, range(0)),
        (0.8, 0.2, range(0)),
    ],
)
def test_a_window_holds_the_steps_that_begin_in_it(start: float, end: float, steps: range) -> None:
    got = over(Weighting(0.7, start, end))
    assert got == [0.7 if step in steps else 0.0 for step in range(STEPS)]


def test_two_windows_that_meet_have_every_step_once() -> None:
    for border in (0.0, 0.2, 0.33, 0.5, 0.75, 1.0):
        first, second = over(Weighting(1.0, 0.0, border)), over(Weighting(1.0, border, 1.0))
        assert [a + b for a, b in zip(first, second)] == [1.0] * STEPS


@pytest.mark.parametrize(
    ("curve", "wanted"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("ease in", [0.0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2]),
        ("ease out", [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("ease in-out", [0.0, math.sqrt(0.5), 1.0, math.sqrt(0.5)]),
        ("reversed", [1.0, 1 - math.sqrt(0.5), 0.0, 1 - math.sqrt(0.5)]),
    ],
)
def test_curves(curve: str, wanted: list[float]) -> None:
    assert over(Weighting(2.0, curve=curve), 4) == pytest.approx([2.0 * each for each in wanted], abs=1e-12)


def test_every_curve_is_tested() -> None:
    marks = test_curves.pytestmark[0].args[1]
    assert [name for name, _ in marks] == list(CURVES)


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_stays_between_nothing_and_all(curve: str) -> None:
    values = [CURVES[curve](step / 100) for step in range(101)]
    assert all(-1e-12 <= value <= 1.0 + 1e-12 for value in values)
    assert max(values) == pytest.approx(1.0)


def test_a_curve_runs_between_the_first_and_the_last_step_of_a_window() -> None:
    whole, half = over(Weighting(1.0, curve="ease in"), 4), over(Weighting(1.0, 0.5, 1.0, "ease in"), 8)
    assert half == [0.0] * 4 + whole


# --- blocks


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all", [1, 1, 1, 1, 1, 1]),
        ("", [1, 1, 1, 1, 1, 1]),
        ("early", [1, 1, 0, 0, 0, 0]),
        ("middle", [0, 0, 1, 1, 0, 0]),
        ("late", [0, 0, 0, 0, 1, 1]),
        ("early, late", [1, 1, 0, 0, 1, 1]),
        ("early,middle,late", [1, 1, 1, 1, 1, 1]),
        ("Early , LATE:0.5", [1, 1, 0, 0, 0.5, 0.5]),
        ("3", [0, 0, 0, 1, 0, 0]),
        ("0-2", [1, 1, 1, 0, 0, 0]),
        ("0-1:0.5, 4-5", [0.5, 0.5, 0, 0, 1, 1]),
        (" 1 - 3 : .25 ", [0, 0.25, 0.25, 0.25, 0, 0]),
        ("all:2, 0:0", [0, 2, 2, 2, 2, 2]),  # the last that names a block decides
        ("4-99", [0, 0, 0, 0, 1, 1]),
        ("30", [0, 0, 0, 0, 0, 0]),
        ("all:8", [8, 8, 8, 8, 8, 8]),
    ],
)
def test_blocks(text: str, wanted: list[float]) -> None:
    assert block_factors(text, 6) == tuple(map(float, wanted))


@pytest.mark.parametrize("blocks", [1, 2, 6, 8, 30, 31])
def test_named_parts_share_all_blocks_among_them(blocks: int) -> None:
    parts = [block_factors(name, blocks) for name in NAMED_BLOCKS if name != ALL]
    assert [sum(factors) for factors in zip(*parts)] == [1.0] * blocks


def test_the_real_models_thirty_blocks() -> None:
    for name, first in (("early", 0), ("middle", 10), ("late", 20)):
        assert block_factors(name, 30) == block_factors(f"{first}-{first + 9}", 30)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "early late",
        "0-",
        "-3",
        "5-2",
        "0.5",
        "0-9:",
        "0-9:x",
        "0-9:-1",
        "all:9",
        ",",
        "early,",
        "1000",
        "0-1000",
        "0;1",
        "all:1e3",
        "style",
        "\u0663",
    ],
)
def test_text_that_names_no_blocks_is_refused(text: str, refused) -> None:
    with refused("blocks must be all, early, middle, late, or block numbers"):
        block_ranges(text)


@pytest.mark.parametrize("length", [60, 61, 10_000])
def test_a_refusal_does_not_repeat_a_book(length: int, refused) -> None:
    text = "x" * length
    shown = text if length <= 60 else "x" * 57 + r"\.\.\."
    with refused(f"not '{shown}'"):
        block_ranges(text)


# --- what they are together


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(0.0),
        Weighting(1.0, 0.5, 0.5),
        Weighting(1.0, 0.8, 0.2),
        Weighting(blocks="all:0"),
        Weighting(blocks="0-9:0, late:0"),
    ],
    ids=str,
)
def test_idle(weighting: Weighting) -> None:
    assert weighting.idle
    assert not weighting.plain


@pytest.mark.parametrize("weighting", [Weighting(), Weighting(1e-9), Weighting(end=0.01), Weighting(blocks="3")])
def test_not_idle(weighting: Weighting) -> None:
    assert not weighting.idle


@pytest.mark.parametrize("blocks", ["all", "", "0-999", "early, middle, late", "all:0.5, all"])
def test_plain(blocks: str) -> None:
    assert Weighting(blocks=blocks).plain


@pytest.mark.parametrize(
    "weighting",
    [
        Weighting(0.999),
        Weighting(2.0),
        Weighting(start=0.1),
        Weighting(end=0.9),
        Weighting(curve="ease in"),
        Weighting(blocks="late"),
        Weighting(blocks="all:0.5"),
        Weighting(2.0, blocks="all:0.5"),
    ],
    ids=str,
)
def test_not_plain(weighting: Weighting) -> None:
    assert not weighting.plain


def test_constant() -> None:
    assert Weighting(0.3, blocks="late").constant
    assert not any(w.constant for w in (Weighting(start=0.1), Weighting(end=0.9), Weighting(curve="reversed")))
