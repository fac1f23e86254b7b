"""Profiles in diffusers' Z-Image: its own classes at the miniature's size, with random weights."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import hooks
from diffusers import ZImagePipeline
from diffusers_sampling import apart, conditioning, make_pipeline, pictures_of, prompt

from zvl_ext.conditioning import Conditioning, joined
from zvl_ext.errors import ZvlError
from zvl_ext.profiles import Profile, profile_of

BLOCKS, HEADS, REFINERS = 6, 4, 1
GENERATOR = torch.Generator().manual_seed(3)
SOFT, HARD = (
    profile_of(
        torch.randn(BLOCKS, HEADS, generator=GENERATOR).clamp(-3, 2),
        torch.randn(REFINERS, HEADS, generator=GENERATOR),
        name,
        {"image_model": "the miniature", "width": 120},
    )
    for name in ("soft", "hard")
)
ZEROS = profile_of(torch.zeros(BLOCKS, HEADS), torch.zeros(REFINERS, HEADS))


@pytest.fixture(scope="module")
def pipeline() -> ZImagePipeline:
    return make_pipeline()


@pytest.fixture
def model(pipeline: ZImagePipeline) -> torch.nn.Module:
    return pipeline.transformer


@pytest.fixture
def picture(pipeline: ZImagePipeline) -> Callable[..., torch.Tensor]:
    return pictures_of(pipeline)


def with_profile(profile: Profile | None, **settings: Any) -> Conditioning:
    made = conditioning(**settings)
    parts = tuple(
        dataclasses.replace(part, weighting=dataclasses.replace(part.weighting, profile=profile)) for part in made.parts
    )
    return joined(made.text.float(), parts, made.place[0], made.rows.dtype)


@pytest.mark.parametrize(
    "settings", [{"weight": 0.4}, {"weight": 1.0}, {"weight": 0.6, "blocks": "0:0.5, 3-5"}], ids=str
)
def test_each_profile_makes_another_picture_and_one_of_zeros_none(picture: Callable, settings: dict) -> None:
    bare, soft, hard, zeros = (picture(with_profile(each, **settings)) for each in (None, SOFT, HARD, ZEROS))
    assert torch.equal(zeros, bare)
    assert all(apart(one, other) > 1e-3 for one, other in itertools.combinations([bare, soft, hard], 2))


def test_each_of_a_batch_has_its_own(picture: Callable) -> None:
    profiles = (SOFT, None, HARD)
    both = picture(*(with_profile(each, weight=0.5) for each in profiles), guidance=2.0)
    for i, each in enumerate(profiles):
        assert apart(both[i : i + 1], picture(with_profile(each, weight=0.5), seed=1 + i, guidance=2.0)) < 1e-5


@pytest.mark.parametrize("head", range(HEADS))
def test_a_head_without_weight_does_not_see_the_reference(
    picture: Callable,
    model: torch.nn.Module,
    head: int,
) -> None:
    """In the first main block, that head makes what it makes of a sequence without the reference's rows."""
    logs = torch.zeros(BLOCKS, HEADS)
    logs[0, head] = -30.0
    own = with_profile(profile_of(logs, torch.zeros(REFINERS, HEADS)), weight=0.7)
    seen: list[tuple] = []

    def remember(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        seen.append((args[0].clone(), kwargs["attention_mask"].clone()))

    handle = model.layers[0].attention.register_forward_hook(remember, with_kwargs=True)
    try:
        picture(own, steps=1)
    finally:
        handle.remove()
    ((hidden, bias),) = seen
    reference = torch.nn.functional.pad(own.marks[:, 0] == 1, (64, 0))  # the caption stands behind the picture
    reference = torch.nn.functional.pad(reference, (0, hidden.shape[1] - len(reference)))
    assert bias.shape == (1, HEADS, 1, hidden.shape[1])
    for each in range(HEADS):
        got = bias[0, each, 0][reference]
        wanted = torch.tensor(0.7).log() + (-30.0 if each == head else 0.0)
        torch.testing.assert_close(got, wanted.expand(len(got)))


def test_weight_0_is_the_plain_picture(picture: Callable, model: torch.nn.Module) -> None:
    """Bit for bit where no reference has a part, as `conditioner.mixed` sees to."""
    plain = picture(prompt())
    nearly, whole = (picture(with_profile(HARD, weight=weight)) for weight in (1e-6, 1.0))
    assert apart(nearly, plain) < 1e-4 * apart(whole, plain)
    assert hooks(model) == 0


@pytest.mark.parametrize(
    "other",
    [
        profile_of(torch.zeros(BLOCKS, HEADS + 1) - 1, torch.zeros(REFINERS, HEADS + 1), "other"),
        profile_of(torch.zeros(BLOCKS + 1, HEADS) - 1, torch.zeros(REFINERS, HEADS), "other"),
        dataclasses.replace(SOFT, name="other", about=(("width", "3840"),)),
    ],
)
def test_one_of_another_image_model_is_refused_before_anything_is_sampled(
    picture: Callable,
    pipeline: ZImagePipeline,
    other: Profile,
) -> None:
    with pytest.raises(ZvlError, match="The profile 'other' is for an image model"):
        picture(with_profile(other, weight=0.5))
    assert hooks(pipeline.transformer) == 0
