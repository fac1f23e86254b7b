"""Where in the picture a reference acts, in words, numbers and masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from zvl_ext.regions import NAMED_REGIONS, rectangle, region_of


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("", (0, 0, 1, 1)),
        ("all", (0, 0, 1, 1)),
        (" Left ", (0, 0, 0.5, 1)),
        ("0, 0, 0.5, 1", (0, 0, 0.5, 1)),
        ("25%,0,75%,100%", (0.25, 0, 0.75, 1)),
        (".5, .25, 1, 1.0", (0.5, 0.25, 1, 1)),
    ],
)
def test_a_rectangle_in_words_or_numbers(text: str, edges: tuple[float, ...]) -> None:
    assert rectangle(text) == edges


@pytest.mark.parametrize(
    "text", ["middle", "0,0,1", "0,0,1,1,1", "a,b,c,d", "0;0;1;1", "-1,0,1,1", "1e3,0,1,1", "0,0,nan,1", "٠,0,1,1"]
)
def test_what_is_no_rectangle_is_refused(text: str, refused: Callable) -> None:
    with refused("region must be one of all, left"):
        rectangle(text)


@pytest.mark.parametrize("text", ["0.5,0,0.5,1", "0.6,0,0.5,1", "0,0,1.5,1", "0,50%,1,20%"])
def test_a_rectangle_with_nothing_of_the_picture_in_it_is_refused(text: str, refused: Callable) -> None:
    with refused("is empty or lies outside the picture"):
        rectangle(text)


@pytest.mark.parametrize("name", [name for name in NAMED_REGIONS if name != "all"])
def test_a_named_region_has_its_share_of_the_picture(name: str) -> None:
    left, top, right, bottom = NAMED_REGIONS[name]
    region = region_of(name, None)
    assert region is not None
    assert float(region.mean()) == pytest.approx((right - left) * (bottom - top))
    assert set(region.unique().tolist()) == {0.0, 1.0}


def test_all_of_the_picture_is_no_region() -> None:
    assert region_of("all", None) is None
    assert region_of("0, 0, 1, 1", None) is None
    assert region_of("all", torch.ones(3, 5)) is None
    assert region_of("all", torch.full((3, 5), 0.5)) is not None


def test_a_mask_and_a_rectangle_act_together() -> None:
    mask = torch.rand(10, 8, generator=torch.Generator().manual_seed(0)) * 0.9
    region = region_of("right", mask)
    assert region is not None
    assert torch.equal(region[:, 4:], mask[:, 4:])
    assert not region[:, :4].any()
    assert torch.equal(region_of("all", mask), mask)


def test_a_region_without_anything_in_it_is_refused(refused: Callable) -> None:
    left = torch.zeros(4, 8)
    left[:, :4] = 1
    for text, mask in (("all", torch.zeros(4, 4)), ("right", left)):
        with refused("nothing of the picture in it"):
            region_of(text, mask)
