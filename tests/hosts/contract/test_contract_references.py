"""Several references in one picture: each with a weight, a region and a mask of its own, for and against."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
from compare import hooks
from host_runs import BARE, CAT, DOG, conds, rows, same
from PIL import Image
from sampling import FRONT, Studio, apart

from zvl_ext.webui import run

pytest_plugins = ["host_fixtures", "sampling"]

EVERY = {"schedule": "a photo of a [cat:dog:0.5]", "AND": "a cat AND a big dog :0.5", "batch": [CAT, DOG]}


@pytest.fixture(scope="module")
def other() -> Image.Image:
    """A second reference, of another shape and size."""
    return tiny.picture(64, 128, seed=9)


@pytest.fixture
def two(other: Image.Image) -> dict[str, Any]:
    """Settings of two references."""
    return {**FRONT, "weight": 0.7, "reference_2": other, "weight_2": 0.4}


def half(left: bool) -> Image.Image:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64) if left else (32, 0, 64, 64))
    return mask


# --- what changes nothing


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_reference_in_another_place_makes_the_same_picture(studio: Studio, cfg: float) -> None:
    alone = studio.picture(cfg=cfg, **FRONT, weight=0.7)
    reference, studio.reference = studio.reference, None
    moved = studio.picture(cfg=cfg, **FRONT, reference_3=reference, weight_3=0.7, weight=0.1)
    assert torch.equal(moved, alone)


@pytest.mark.parametrize(
    "nothing",
    [{"weight_2": 0.0}, {"start_2": 0.5, "end_2": 0.5}, {"blocks_2": "all:0"}, {"reference_2": None}],
    ids=str,
)
def test_a_reference_without_a_part_changes_nothing(studio: Studio, two: dict, nothing: dict) -> None:
    alone = studio.picture(**FRONT, weight=0.7)
    assert torch.equal(studio.picture(**two | nothing), alone)
    assert apart(studio.picture(**two), alone) > 1e-3, "with a part it does"


@pytest.mark.parametrize(
    "identity",
    [
        {"region": "all"},
        {"region": "0, 0, 1, 1"},
        {"region_mask": Image.new("L", (5, 9), 255)},
        {"reference_mask": Image.new("L", (9, 5), 255)},
        {"crop": "whole"},
    ],
    ids=["all", "numbers", "white region", "white mask", "whole"],
)
def test_the_whole_is_no_part(studio: Studio, identity: dict) -> None:
    for weight in (0.5, 1.0):
        assert torch.equal(studio.picture(**FRONT, weight=weight, **identity), studio.picture(**FRONT, weight=weight))


# --- what several references do


@pytest.mark.parametrize("engine", ["splice", "blend"])
def test_each_weight_moves_the_picture_by_itself(studio: Studio, two: dict, engine: str) -> None:
    pictures = [
        studio.picture(**two | {"engine": engine, "weight": first, "weight_2": second})
        for first, second in ((0.7, 0.4), (0.2, 0.4), (0.7, 0.1), (0.2, 0.1))
    ]
    for i, one in enumerate(pictures):
        for another in pictures[i + 1 :]:
            assert apart(one, another) > 1e-3


def test_towards_0_the_second_reference_goes_out(studio: Studio, two: dict) -> None:
    """The block changes its length by whole multiples of 32, so nothing else moves."""
    merged = {"merge": 2, "proportional": True}
    alone = studio.picture(**FRONT | merged | {"weight": 0.7})
    there, gone = (studio.picture(**two | merged | {"weight_2": weight}) for weight in (0.4, 1e-6))
    assert apart(gone, alone) < 0.01 * apart(there, alone)


@pytest.mark.parametrize("prompt", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_batches_schedules_and_parts_of_a_prompt(studio: Studio, two: dict, prompt: Any, cfg: float) -> None:
    made = studio.picture(prompt, cfg=cfg, **two)
    assert torch.equal(studio.picture(prompt, cfg=cfg, **two), made)
    assert apart(made, studio.picture(prompt, cfg=cfg, **FRONT, weight=0.7)) > 1e-3
    if isinstance(prompt, list):
        for i, each in enumerate(prompt):
            assert apart(made[i : i + 1], studio.picture(each, cfg=cfg, seed=1 + i, **two)) < 1e-4
    assert hooks(studio.model) == 0


def test_another_weight_or_region_or_order_reads_nothing_again(studio: Studio, two: dict, other: Image.Image) -> None:
    studio.picture(**two)
    seen = studio.web.events.count("vision")
    assert seen == 2
    first = studio.reference
    for change in ({"weight": 0.1, "weight_2": 1.3}, {"region_2": "left"}, {"start_2": 0.5}):
        studio.picture(**two | change)
    studio.reference = other
    studio.picture(**two | {"reference_2": first})
    assert studio.web.events.count("vision") == seen


# --- regions


@pytest.mark.parametrize("weight", [0.5, 1.0])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_region_is_a_part_of_the_way(studio: Studio, weight: float, cfg: float) -> None:
    plain, whole, left = (
        studio.picture(cfg=cfg, **settings)
        for settings in ({}, {**FRONT, "weight": weight}, {**FRONT, "weight": weight, "region": "left"})
    )
    assert apart(left, plain) > 1e-3
    assert apart(left, whole) > 1e-3
    width = left.shape[-1]

    def moved(part: slice) -> float:
        return float((left - plain)[..., part].norm() / (whole - plain)[..., part].norm())

    assert moved(slice(0, width // 2)) > moved(slice(width // 2, width))


def test_a_mask_and_a_rectangle_of_the_same_region_are_the_same(studio: Studio) -> None:
    for name, left in (("left", True), ("right", False)):
        painted = studio.picture(**FRONT, weight=0.5, region_mask=half(left))
        assert torch.equal(painted, studio.picture(**FRONT, weight=0.5, region=name))
    assert not torch.equal(painted, studio.picture(**FRONT, weight=0.5, region_mask=half(True)))


def test_a_region_reaches_every_tile_and_pass(studio: Studio) -> None:
    """Another size in the same generation, as in hires: the region keeps its place."""
    p = studio.condition(studio.p(), **FRONT, weight=0.5, region="left")
    for size in ((8, 12), (12, 16)):
        made = studio.sample(p, size=size)
        assert made.shape[-2:] == size
        assert torch.equal(studio.sample(p, size=size), made)


# --- which part of a reference


def test_a_reference_mask_leaves_rows_out(studio: Studio) -> None:
    def length(**settings: Any) -> int:
        return len(conds(studio.condition(studio.p(), **FRONT, **settings))[0])

    assert length(reference_mask=half(True)) < length()
    assert apart(studio.picture(**FRONT, reference_mask=half(True)), studio.picture(**FRONT)) > 1e-3


def test_a_crop_is_another_reference(studio: Studio) -> None:
    pictures = [studio.picture(**FRONT, crop=crop) for crop in ("whole", "centre", "pad")]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[1], pictures[2])


# --- against


def test_a_negative_reference_acts_in_the_negative_half_alone(studio: Studio) -> None:
    plain = studio.condition(studio.p(cfg=4.0))
    p = studio.condition(studio.p(cfg=4.0), **FRONT, weight=0.3, negative=True)
    assert same(p.c, plain.c)
    assert len(rows(p.uc)[0]) > len(rows(plain.uc)[0])
    made, without = studio.sample(p), studio.sample(plain)
    assert apart(made, without) > 1e-3
    assert hooks(studio.model) == 0
    assert apart(studio.picture(cfg=4.0, **FRONT, weight=1e-6, negative=True), without) < 0.01 * apart(made, without)


def test_one_for_and_one_against(studio: Studio, two: dict) -> None:
    alone = studio.condition(studio.p(cfg=4.0), **FRONT, weight=0.7)
    p = studio.condition(studio.p(cfg=4.0), **two, negative_2=True)
    assert all(torch.equal(a, b) for a, b in zip(conds(p), conds(alone)))
    first, second = studio.sample(p), studio.picture(cfg=4.0, **two | {"weight_2": 0.1}, negative_2=True)
    assert apart(first, studio.sample(alone)) > 1e-3
    assert apart(first, second) > 1e-3


def test_a_negative_reference_without_guidance_is_refused(studio: Studio, refused: Any) -> None:
    with refused("at CFG scale 1 there is none. Set CFG scale to 1.5 or more"):
        studio.condition(studio.p(cfg=1.0), **FRONT, negative=True)


# --- said


def test_contradictions_are_one_line(studio: Studio, refused: Any, other: Image.Image) -> None:
    black = Image.new("L", (8, 8), 0)
    for settings, says in (
        ({"region_mask": black}, "has nothing of the picture in it"),
        ({"region_mask_2": black, "reference_2": half(True)}, "Reference 2: The region has nothing of the picture"),
        ({"region_mask": "no picture"}, "Mask: the text is not base64 of a picture"),
        ({"reference_mask": black}, "has nothing of the reference in it"),
        ({"region_mask": half(True), "region": "right"}, "has nothing of the picture in it"),
    ):
        with refused(says):
            studio.condition(studio.p(), **FRONT, **settings)


def test_a_list_of_references_is_the_same_as_numbered_names(studio: Studio, two: dict, other: Image.Image) -> None:
    numbered = studio.picture(**two)
    listed = {name: value for name, value in two.items() if name not in ("weight", "reference_2", "weight_2")}
    references = [{"image": studio.reference, "weight": 0.7}, {"image": other, "weight": 0.4}]
    studio.reference = None
    p = studio.p()
    run.attach(p, [{"enabled": True, **BARE, **_unweighed(listed), "references": references}])
    assert torch.equal(studio.sample(studio.web.condition(p)), numbered)


def _unweighed(settings: dict[str, Any]) -> dict[str, Any]:
    """As `Studio.condition` names what is not about the references."""
    from published import as_published
    from sampling import UNWEIGHED

    own = ("weight", "start", "end", "curve", "blocks", "image_dropout", "reference")
    return {name: value for name, value in as_published(UNWEIGHED | settings).items() if name not in own}


def test_a_mask_that_changes_nothing_is_said_and_not_named(web: Any, picture: Any, other_picture: Any) -> None:
    own = {"token_mode": "text", "region_mask": other_picture, "reference_mask": other_picture}
    p = web.run(web.p(), reference=picture, **own)
    assert ["mask changes nothing here" in line for line in p.comments] == [True, True]
    assert not {"ZVL region mask", "ZVL reference mask"} & set(p.extra_generation_params)
