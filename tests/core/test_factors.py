"""What blocks multiply the weights of references with, by head where a profile says so, and the bias that makes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from zvl_ext.attention import FLOOR, Biases, Layout, marks
from zvl_ext.factors import factors_of
from zvl_ext.profiles import profile_of
from zvl_ext.weighting import Weighting

BLOCKS, HEADS, REFINERS = 6, 4, 2
GENERATOR = torch.Generator().manual_seed(5)
MAIN = torch.randn(BLOCKS, HEADS, generator=GENERATOR).clamp(-3, 3)
REFINER = torch.randn(REFINERS, HEADS, generator=GENERATOR).clamp(-3, 3)
PROFILE = profile_of(MAIN, REFINER)
ZEROS = profile_of(MAIN * 0, REFINER * 0)


def test_without_a_profile_there_is_a_factor_for_each_block() -> None:
    got = factors_of([[Weighting(blocks="early:0.5, late:2"), Weighting()]], BLOCKS, REFINERS)
    assert [each.tolist() for each in got.main] == [[[0.5, 1.0]]] * 2 + [[[0.0, 1.0]]] * 2 + [[[2.0, 1.0]]] * 2
    assert [each.tolist() for each in got.refiner] == [[[2.0, 1.0]]] * 2


def test_a_profile_multiplies_each_blocks_factor_by_head() -> None:
    got = factors_of([[Weighting(0.3, blocks="early:0.5, late:2", profile=PROFILE)]], BLOCKS, REFINERS)
    factors = torch.tensor([0.5, 0.5, 0.0, 0.0, 2.0, 2.0])
    assert torch.equal(got.main[2], torch.zeros(1, 1)), "a block that does not look has no heads that do"
    for block in (0, 1, 4, 5):
        torch.testing.assert_close(got.main[block], factors[block] * MAIN[block].exp()[None, None])
    for block in range(REFINERS):
        torch.testing.assert_close(got.refiner[block], 2.0 * REFINER[block].exp()[None, None])


def test_each_of_a_batch_and_each_reference_has_its_own() -> None:
    batch = [[Weighting(profile=PROFILE), Weighting(blocks="0:3", profile=PROFILE)], [Weighting()]]
    got = factors_of(batch, BLOCKS, REFINERS)
    assert [tuple(each.shape) for each in (*got.main, *got.refiner)] == [(2, 2, HEADS)] * (BLOCKS + REFINERS)
    torch.testing.assert_close(got.main[0][0], torch.stack([MAIN[0].exp(), 3 * MAIN[0].exp()]))
    assert torch.equal(got.main[0][1], torch.ones(2, HEADS))
    assert torch.equal(got.main[3][0, 1], torch.zeros(HEADS))


def test_a_profile_of_zeros_is_none_to_the_last_bit() -> None:
    for weighting in (Weighting(0.7, blocks="early:0.3, 5"), Weighting(2.0)):
        bare = factors_of([[weighting]], BLOCKS, REFINERS)
        got = factors_of([[dataclasses.replace(weighting, profile=ZEROS)]], BLOCKS, REFINERS)
        for one, other in zip((*got.main, *got.refiner), (*bare.main, *bare.refiner)):
            assert torch.equal(one, other)
            assert one.shape == other.shape


def test_a_weighting_is_plain_only_with_a_profile_that_changes_nothing() -> None:
    assert Weighting(profile=ZEROS).plain
    assert not Weighting(profile=PROFILE).plain
    assert Weighting(0.0, profile=PROFILE).idle
    assert not Weighting(profile=PROFILE).idle
    assert Weighting(profile=PROFILE).constant


# --- the bias by head


def row_marks(*rows: tuple[float, float]) -> torch.Tensor:
    owner, count = torch.tensor(rows).T
    return marks(owner, count)[None]


MARKED = row_marks((0, 0), (1, 1), (1, 4), (2, 1), (-1, 0), (0, 0))
WEIGHTS = torch.tensor([[0.5, 2.0]])


@pytest.mark.parametrize("region", [False, True])
def test_a_bias_by_head_is_each_heads_own(region: bool) -> None:
    """One head at a time, it is what the same factors make without heads."""
    by_head = torch.tensor([[[0.25, 1.0, 0.0, 3.0], [1.0, 0.5, 2.0, 1.0]]])  # [batch, references, heads]
    more = (torch.tensor([[[0.5, 1.0], [1.0, 0.0]]]), torch.tensor([[True, True]])) if region else ()
    layout = Layout(9, 1, 7) if region else Layout(8, 2)
    got = Biases(MARKED, WEIGHTS, *more).of(by_head, layout, torch.float32)
    assert got.shape == (1, 4, 9 if region else 1, layout.keys)
    for head in range(4):
        alone = Biases(MARKED, WEIGHTS, *more).of(by_head[..., head], layout, torch.float32)
        assert torch.equal(got[:, head], alone[:, 0])
    assert float(got.min()) >= FLOOR


@pytest.mark.parametrize("region", [False, True])
def test_a_bias_by_head_is_not_kept_and_one_of_a_block_is(region: bool) -> None:
    more = (torch.ones(1, 2, 2), torch.tensor([[True, False]])) if region else ()
    biases, layout = Biases(MARKED, WEIGHTS, *more), Layout(9, 1, 7)
    kept = biases.of(torch.ones(1, 2), layout, torch.bfloat16)
    assert biases.of(torch.ones(1, 2), layout, torch.bfloat16) is kept
    heads = torch.rand(1, 2, 30)
    first, second = (biases.of(heads, layout, torch.bfloat16) for _ in range(2))
    assert first is not second
    assert torch.equal(first, second)
    assert list(biases._made.values()) == [kept]


def test_the_largest_bias_is_made_without_a_larger_one() -> None:
    """By head and query in the sum's own dtype: neither a copy of it nor one in float32 is made on the way."""
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                sizes.append(made.nbytes)
            return made

    keys, heads = 96, 30
    marked = row_marks(*itertools.repeat((1.0, 1.0), 16), *itertools.repeat((0.0, 0.0), 80))
    regions = torch.rand(1, 64, 1)
    biases = Biases(marked, torch.tensor([[0.5]]), regions, torch.tensor([[True]]))
    with Watch():
        made = biases.of(torch.rand(1, 1, heads), Layout(keys, 0, 32), torch.bfloat16)
    assert made.nbytes == heads * keys * keys * 2
    assert sorted(sizes)[-1] == made.nbytes
    others = [size for size in sizes if size != made.nbytes]
    assert max(others) <= 4 * keys * keys


def test_gradients_pass_through_a_bias_by_head() -> None:
    """Fitting learns the factors."""
    logs = torch.zeros(1, 2, 4, requires_grad=True)
    biases = Biases(MARKED, WEIGHTS)
    first, second = (biases.of(logs.exp() * factor, Layout(8, 2), torch.float32) for factor in (1.0, 1.0))
    (first[0, 0, 0, 3] + second[0, 1, 0, 5]).backward()
    assert logs.grad.tolist() == [[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]
