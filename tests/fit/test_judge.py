"""What is wanted of the image model is what it makes itself of a whole caption, whatever has been learned since."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from learning import Alone

pytest.importorskip("diffusers")

from zvl_ext.conditioning import Part, joined
from zvl_ext.fit.flow import noise_levels
from zvl_ext.fit.judge import Judge, Lot
from zvl_ext.fit.loop import Schedule
from zvl_ext.fit.prepare import Prepared
from zvl_ext.fit.recipes import Example
from zvl_ext.fit.weights import SINGLE, HeadWeights, best_single
from zvl_ext.lab.miniature import family
from zvl_ext.weighting import Weighting

SHIFT, PICTURES = 3.0, 3


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny.randomized(family.transformer()).requires_grad_(False)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, family.HIDDEN, generator=torch.Generator().manual_seed(seed))


def prepared(weight: float = 0.5) -> Prepared:
    """Examples whose prompt is the whole caption, so that the reference is all that differs from what is wanted."""
    made = torch.Generator().manual_seed(1)
    captions = {number: rows(6, 10 + number) for number in range(PICTURES)}
    parts = [Part(Weighting(weight), own=each, counts=torch.ones(4), block=rows(4, 3)) for each in captions.values()]
    wanted = [joined(each, (part,), 0, torch.float32) for each, part in zip(captions.values(), parts)]
    latents = {number: torch.randn(16, 4, 4, generator=made) for number in range(PICTURES)}
    return Prepared([Example("same", number, "", number, 0) for number in range(PICTURES)], latents, captions, wanted)


def judge(model: torch.nn.Module, at_once: int = 2) -> Judge:
    return Judge(model, at_once, 0, SHIFT, Alone())


def a_lot(material: Prepared) -> Lot:
    noise = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(5))
    return Lot([2, 0], noise, torch.tensor([0.2, 0.9]), [material.conditionings[number] for number in (2, 0)])


def test_what_is_wanted_is_the_image_models_own_velocity_with_the_whole_caption(model):
    material = prepared()
    lot = a_lot(material)
    found = judge(model).wanted(material, lot)
    for i, number in enumerate(lot.numbers):
        level = SHIFT * lot.places[i] / (1 + (SHIFT - 1) * lot.places[i])
        noisy = (1 - level) * material.latents[number] + level * lot.noise[i]
        with torch.no_grad():
            alone = model([noisy[:, None]], 1 - level[None], [material.captions[number]], return_dict=False)[0][0]
        torch.testing.assert_close(found[i], alone[:, 0], atol=2e-3, rtol=1e-3)  # they are around ten
    assert not found.requires_grad


def test_a_reference_of_no_weight_is_no_distance_and_its_weight_is_one(model):
    found = {weight: judge(model).losses(prepared(), weight=weight) for weight in (0.0, 0.1, 1.0)}
    assert found[0.0].max() < 1e-6
    assert (found[0.1] > 1e-3).all()
    assert found[1.0].mean() > found[0.1].mean()


def test_losses_are_the_same_again_and_in_whatever_parts(model):
    material, one = prepared(), judge(model)
    first = one.losses(material)
    assert (one.losses(material) == first).all(), "with what is wanted at hand"
    assert judge(model, at_once=5).losses(material) == pytest.approx(first, rel=1e-3)
    other = prepared()
    other.captions[0] = rows(6, 99)
    changed = one.losses(other)
    assert changed[0] != pytest.approx(first[0], rel=1e-2), "other examples are other ones"
    assert changed[1:] == pytest.approx(first[1:], rel=1e-3)


def test_what_is_wanted_never_depends_on_a_lora(model):
    pytest.importorskip("peft", reason="a LoRA needs peft, an optional package")
    from zvl_ext.fit.adapters import Adapters, Form

    material, other = prepared(), copy.deepcopy(model)
    plain = judge(model).wanted(material, a_lot(material))
    learner = Adapters(judge(other), material, material, Schedule(batch=2, at_once=2), Form(2, 2.0))
    with torch.no_grad():
        for name, each in learner.parameters.items():
            each.add_(0.05 if name.endswith(".up") else 0.0)
    torch.testing.assert_close(judge(other).wanted(material, a_lot(material)), plain, atol=2e-3, rtol=1e-3)
    assert all(each.requires_grad for each in learner.parameters.values()), "it goes on learning"
    assert judge(other).losses(material, weight=0.0).mean() > 1e-3, "and it acts"


def test_a_profiles_gradients_lead_towards_what_is_wanted(model):
    material = prepared()
    learner = HeadWeights(judge(model), material, material, Schedule(batch=3, at_once=3), together=0.0)
    before = learner.held_out()
    learner.learn(0, range(3))
    with torch.no_grad():
        for each in learner.parameters.values():
            each.sub_(0.2 * each.grad.sign())
    assert learner.held_out() < before, "the whole caption is in the prompt: less of the reference is better"


def test_noise_levels_are_bounded_by_what_there_is_to_tell():
    assert noise_levels(torch.zeros(1), SHIFT) > 0


def test_a_profile_is_judged_at_its_own_best_weight(model):
    material, one = prepared(), judge(model)
    doubled = one.losses(material, one.tables(0.6931472), 0.1)
    assert doubled == pytest.approx(one.losses(material, weight=0.2), rel=1e-3)
    assert best_single(one, material) == SINGLE[0], "the whole caption is in the prompt"
    weakened = one.tables(-20.0)
    assert one.losses(material, weakened, best_single(one, material, weakened)).max() < 1e-3
