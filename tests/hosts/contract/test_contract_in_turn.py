"""Several references that are read one after another, in the host."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from compare import hooks
from host_runs import CAT, DOG
from PIL import Image
from sampling import FRONT, Studio, apart

pytest_plugins = ["host_fixtures", "sampling"]

WAYS = {
    "sequential": {"engine": "splice"},
    "mrope": {"engine": "splice", "positions": "mrope"},
    "blend": {"engine": "blend"},
}


@pytest.fixture(scope="module")
def other() -> Image.Image:
    """A second reference, of another shape and size."""
    return tiny.picture(64, 128, seed=9)


@pytest.fixture(params=WAYS)
def two(request: Any, other: Image.Image) -> dict[str, Any]:
    """Settings of two references in turn."""
    return {**FRONT, **WAYS[request.param], "combine": "in turn", "weight": 0.7, "reference_2": other, "weight_2": 0.4}


def test_it_is_another_picture_than_each_alone_and_follows_the_weights_and_the_order(studio: Studio, two: dict) -> None:
    first, second = studio.reference, two["reference_2"]
    made = [studio.picture(**two), studio.picture(**two | {"combine": "each alone"})]
    made += [studio.picture(**two | changed) for changed in ({"weight": 0.2}, {"weight_2": 0.1}, {"region_2": "left"})]
    studio.reference = second
    made.append(studio.picture(**two | {"reference_2": first, "weight": 0.4, "weight_2": 0.7}))
    for i, one in enumerate(made):
        for another in made[i + 1 :]:
            assert apart(one, another) > 1e-3
    studio.reference = first
    assert torch.equal(studio.picture(**two), made[0])
    assert hooks(studio.model) == 0


@pytest.mark.parametrize("nothing", [{"weight_2": 0.0}, {"start_2": 0.5, "end_2": 0.5}, {"reference_2": None}], ids=str)
def test_where_one_is_left_it_is_the_picture_of_that_one(studio: Studio, two: dict, nothing: dict) -> None:
    alone = {name: value for name, value in two.items() if name not in ("combine", "reference_2", "weight_2")}
    assert torch.equal(studio.picture(**two | nothing), studio.picture(**alone))


def test_a_batch_is_each_prompt_by_itself(studio: Studio, two: dict) -> None:
    made = studio.picture([CAT, DOG], **two)
    for i, each in enumerate((CAT, DOG)):
        assert apart(made[i : i + 1], studio.picture(each, seed=1 + i, **two)) < 1e-4


def test_another_weight_or_region_reads_nothing_again(studio: Studio, two: dict) -> None:
    studio.picture(**two)
    seen = [studio.web.events.count(kind) for kind in ("vision", "vl")]
    assert seen == [2, 2 if two["engine"] == "blend" else 0]
    for change in ({"weight": 0.1, "weight_2": 1.3}, {"region_2": "left"}, {"start_2": 0.5}):
        studio.picture(**two | change)
    assert [studio.web.events.count(kind) for kind in ("vision", "vl")] == seen
