"""Examples: pure functions of captions and a seed."""

from collections import Counter

import pytest

from zvl_ext.fit.clauses import Captions
from zvl_ext.fit.recipes import KINDS, examples, parts

CAPTIONS = Captions(
    [
        f"a {colour} {shape}, on {ground}, {style}"
        for colour, shape, ground, style in (
            ("red", "circle", "white", "flat"),
            ("blue", "star", "white", "soft"),
            ("green", "cross", "navy", "flat"),
            ("teal", "moon", "beige", "dotted"),
            ("pink", "heart", "navy", "dotted"),
            ("red", "ring", "black", "striped"),
        )
    ]
)
EVERY = range(len(CAPTIONS))


@pytest.fixture(scope="module")
def made():
    return examples(CAPTIONS, EVERY, 300, seed=1)


def test_the_same_seed_gives_the_same_examples(made):
    assert examples(CAPTIONS, EVERY, 300, seed=1) == made
    assert examples(CAPTIONS, EVERY, 300, seed=2) != made


def test_all_kinds_and_all_pictures_come_alike(made):
    assert len(made) == 300
    assert set(Counter(each.kind for each in made).values()) == {300 // len(KINDS)}
    counts = Counter(each.picture for each in made).values()
    assert max(counts) - min(counts) <= len(KINDS)


def test_a_prompt_is_of_its_pictures_own_clauses(made):
    for each in made:
        named = each.prompt.split(", ") if each.prompt else []
        own = CAPTIONS.clauses[each.picture]
        assert [clause for clause in own if clause in named] == named, "in the caption's order"


def test_what_a_prompt_leaves_open_the_reference_shows(made):
    """Otherwise the target would show something that neither says."""
    for each in made:
        left = set(CAPTIONS.clauses[each.picture]) - set(each.prompt.split(", "))
        if each.reference != each.picture:
            assert all(CAPTIONS.said_too(clause, each.reference) for clause in left)


def test_each_kind_has_its_reference(made):
    for each in made:
        assert (each.reference == each.picture) == (each.kind == "same")
    alike = [each for each in made if each.kind == "alike" and each.picture != 5]
    assert all(0 < len(each.prompt.split(", ")) < 3 for each in alike)
    lonely = [each for each in made if each.kind == "alike" and each.picture == 5]
    assert lonely
    assert all(each.prompt == "a red ring, on black, striped" for each in lonely), "it has nothing in common"


def test_the_same_pictures_prompt_names_anything_from_nothing_to_all(made):
    counts = Counter(len(each.prompt.split(", ")) if each.prompt else 0 for each in made if each.kind == "same")
    assert set(counts) == {0, 1, 2, 3}


def test_only_the_pictures_given_are_used():
    made = examples(CAPTIONS, [1, 4], 60, seed=0)
    assert {each.picture for each in made} == {each.reference for each in made} == {1, 4}


@pytest.mark.parametrize("count", [8, 9, 40, 400])
def test_a_picture_is_in_one_part_alone(count):
    learned, deciding, saying = parts(count, seed=3)
    assert sorted([*learned, *deciding, *saying]) == list(range(count))
    assert len(deciding) == len(saying) == max(2, count // 8)
    assert parts(count, seed=3) == (learned, deciding, saying)
    assert len(learned) >= 4
