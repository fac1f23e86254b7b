"""Learning each head's weight in diffusers' Z-Image: its own classes at the miniature's size, with random weights."""

from __future__ import annotations

import pytest
import tiny
import torch

pytest.importorskip("diffusers")

from zvl_ext.conditioning import Conditioning, Part, joined
from zvl_ext.hosts.standalone_attention import weighted
from zvl_ext.hosts.standalone_learning import learning
from zvl_ext.lab.miniature import family
from zvl_ext.profiles import profile_of
from zvl_ext.weighting import Weighting

BLOCKS, REFINERS, HEADS = 6, 1, 4


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return tiny.randomized(family.transformer()).double().requires_grad_(False)


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, family.HIDDEN, generator=torch.Generator().manual_seed(seed))


def conditioning(seed: int, weighting: Weighting, length: int = 9) -> Conditioning:
    part = Part(weighting, own=rows(length, seed + 1), block=rows(6, seed + 2), counts=torch.ones(6))
    return joined(rows(length, seed), (part,), 0, torch.float64)


def tables(seed: int = 5) -> dict[str, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return {
        "main": torch.randn(BLOCKS, HEADS, generator=made, dtype=torch.float64),
        "refiner": torch.randn(REFINERS, HEADS, generator=made, dtype=torch.float64),
    }


def called(model: torch.nn.Module, wanted: list[Conditioning]) -> torch.Tensor:
    noise = torch.randn(16, 1, 10, 10, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    time = torch.full((len(wanted),), 0.3, dtype=torch.float64)
    return torch.stack(model([noise] * len(wanted), time, [each.rows for each in wanted], return_dict=False)[0])


def learned(model, wanted, ways, own) -> torch.Tensor:
    with learning(model, wanted, ways, **own):
        return called(model, wanted)


def test_log_weights_are_what_a_profile_of_them_is(model):
    own, weighting = tables(), Weighting(0.4, curve="ease out")
    profile = profile_of(own["main"], own["refiner"])
    with weighted(model, [conditioning(1, Weighting(0.4, curve="ease out", profile=profile))], 8):
        expected = called(model, [conditioning(1, weighting)])
    made = learned(model, [conditioning(1, weighting)], [0.0], own)
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)  # a profile is rounded to float32
    plain = learned(model, [conditioning(1, weighting)], [0.0], {name: 0 * each for name, each in own.items()})
    assert (plain - expected).abs().max() > 1e-3


def test_each_picture_is_at_a_step_of_its_own(model):
    wanted = [conditioning(seed, Weighting(0.8, curve="ease out")) for seed in (1, 11)]
    both = learned(model, wanted, [0.1, 0.6], tables())
    for i, way in enumerate((0.1, 0.6)):
        torch.testing.assert_close(both[i : i + 1], learned(model, wanted[i : i + 1], [way], tables()))
    assert not torch.allclose(both, learned(model, wanted, [0.6, 0.1], tables()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_what_differences_say(model, checkpointing):
    own = {name: each.requires_grad_() for name, each in tables().items()}
    wanted = [conditioning(1, Weighting(0.7))]
    if checkpointing:
        model.enable_gradient_checkpointing()
    try:
        with learning(model, wanted, [0.2], **own):
            called(model, wanted).square().mean().backward()
    finally:
        model.disable_gradient_checkpointing()
    for name, place in (("main", (0, 1)), ("main", (5, 3)), ("refiner", (0, 2))):
        ends = []
        for step in (-1e-2, 1e-2):
            moved = {each: table.detach().clone() for each, table in own.items()}
            moved[name][place] += step
            ends.append(learned(model, wanted, [0.2], moved).square().mean())
        difference = float(ends[1] - ends[0]) / 2e-2
        assert float(own[name].grad[place]) == pytest.approx(difference, rel=2e-2, abs=1e-9)
        assert difference


def test_nothing_of_it_stays(model):
    wanted = [conditioning(1, Weighting(0.7))]
    before = called(model, wanted)
    learned(model, wanted, [0.0], tables())
    assert torch.equal(called(model, wanted), before)
    with pytest.raises(RuntimeError), learning(model, wanted, [0.0], **tables()):
        raise RuntimeError
    assert torch.equal(called(model, wanted), before)
