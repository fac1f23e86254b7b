"""Captions taken apart, and what two of them have in common."""

import pytest

from zvl_ext.fit.clauses import Captions, clauses, words

CAPTIONS = (
    "a red circle, in the middle, against navy, flat",
    "flat style, a blue star, navy background",
    "a photo of a dog, at night, film grain",
    "a small teal moon, on a white background, striped",
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A red circle, in the middle; flat style.", ["A red circle", "in the middle", "flat style"]),
        ("An old man. He smiles!\nBlack and white", ["An old man", "He smiles", "Black and white"]),
        ("no punctuation at all", ["no punctuation at all"]),
        ("at 10:30, f/1.8, 3.5 mm", ["at 10:30", "f/1.8", "3.5 mm"]),
        ("一只猫，坐在窗边。阳光", ["一只猫", "坐在窗边", "阳光"]),
        (" , ;. - ,", []),
        ("", []),
    ],
)
def test_a_caption_is_taken_apart_where_it_is_punctuated(caption, expected):
    assert clauses(caption) == expected


def test_words_are_alike_whatever_their_capitals():
    assert words("A red, RED circle!") == {"a", "red", "circle"}


@pytest.mark.parametrize(
    ("clause", "other", "said"),
    [
        ("against navy", 1, True),  # "navy" tells, "against" less than half
        ("flat", 1, True),
        ("a red circle", 1, False),
        ("against navy", 3, False),
        ("in the middle", 2, False),
    ],
)
def test_a_clause_is_said_too_where_most_of_what_it_tells_is(clause, other, said):
    captions = Captions([*CAPTIONS, "against a wall, at dusk", "against the sun, a lake"])
    assert captions.said_too(clause, other) is said


def test_what_every_caption_says_tells_nothing():
    captions = Captions(["a picture, red", "a picture, blue"])
    assert captions.only_here(0, 1) == ["a picture", "red"], "a clause that tells nothing is nobody's alone"


def test_only_here_leaves_out_what_both_say():
    captions = Captions([*CAPTIONS, "against a wall, at dusk", "against the sun, a lake"])
    assert captions.only_here(0, 1) == ["a red circle", "in the middle"]


def test_a_caption_of_marks_alone_is_one_clause():
    assert Captions(["a cat", "!!!"]).clauses == [["a cat"], ["!!!"]]
