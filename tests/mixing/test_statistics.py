"""Statistics against NumPy in float64."""

import math

import numpy as np
import pytest
import torch

from zvl_ext.mixing.prompts import LONG, LONG_CHINESE, MEDIUM, REFERENCE_PROMPTS, SHORT, SHORT_CHINESE
from zvl_ext.mixing.statistics import (
    bundle_of,
    compare,
    measure,
    measure_all,
    moments,
    of_bundle,
    share,
    sink,
    sound,
    std,
    worst_of,
)


def rows(count: int, hidden: int = 15, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, hidden)) * random.uniform(0.1, 20, hidden) + random.normal(size=hidden)
    return values.astype(np.float32).astype(np.float64)


def as_tensor(v: np.ndarray) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float32)


def test_std_is_unbiased():
    v = rows(20)
    assert float(std(as_tensor(v))) == pytest.approx(v.std(ddof=1), rel=1e-5)
    assert np.allclose(std(as_tensor(v), 0), v.std(axis=0, ddof=1), rtol=1e-5)


def test_std_of_one_value_is_zero_not_nan():
    assert torch.equal(std(torch.ones(1, 4), 0), torch.zeros(4))
    assert float(std(torch.ones(1))) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_reference_statistics_are_measured_in_float32(dtype):
    stored = as_tensor(rows(50)).to(dtype)
    v = stored.double().numpy()
    measured = measure(stored)
    assert measured.per_dim_mean.dtype == measured.per_dim_std.dtype == torch.float32
    assert np.allclose(measured.per_dim_mean, v.mean(axis=0), atol=1e-4)
    assert np.allclose(measured.per_dim_std, v.std(axis=0, ddof=1), rtol=1e-4)
    assert measured.global_std == pytest.approx(v.std(ddof=1), rel=1e-4)


def test_the_comparison_is_that_of_the_findings():
    text, vl = rows(40), rows(60, seed=1)
    vl[:, 3] *= 617
    vl[:, 7] /= 300
    got = compare(as_tensor(text), as_tensor(vl))
    text_std, vl_std = text.std(axis=0, ddof=1), vl.std(axis=0, ddof=1)
    ratio = vl_std / text_std
    distance = np.maximum(ratio, 1 / ratio)
    worst = np.argsort(-distance)[:5]
    assert (got["text_tokens"], got["vl_tokens"]) == (40, 60)
    assert got["text_std"] == pytest.approx(text.std(ddof=1), rel=1e-4)
    assert got["vl_std"] == pytest.approx(vl.std(ddof=1), rel=1e-4)
    assert got["correlation"] == pytest.approx(np.corrcoef(text_std, vl_std)[0, 1], abs=1e-4)
    assert got["median_ratio"] == pytest.approx(np.median(ratio), rel=1e-4)
    assert got["worst_ratio"] == pytest.approx(distance.max(), rel=1e-4)
    assert [dimension for dimension, _ in got["worst_dimensions"]] == worst.tolist()
    assert [r for _, r in got["worst_dimensions"]] == pytest.approx(ratio[worst].tolist(), rel=1e-4)
    assert got["outliers"] == (distance > 10).sum()


def test_a_dimension_that_is_out_says_which_way_and_by_which_spreads():
    """The findings' 617x has no direction: the text encoder's spread is the large one."""
    text, vl = rows(40), rows(60, seed=1)
    text[:, 4] *= 1000
    vl[:, 9] *= 300
    sides = moments(as_tensor(text)), moments(as_tensor(vl))
    told = worst_of(*sides, count=2)
    assert [(each.dimension, each.direction) for each in told] == [(4, "too small"), (9, "too large")]
    for each in told:
        assert each.text == pytest.approx(text[:, each.dimension].std(ddof=1), rel=1e-5)
        assert each.vl == pytest.approx(vl[:, each.dimension].std(ddof=1), rel=1e-5)
        assert each.ratio == pytest.approx(each.vl / each.text, rel=1e-5)
        assert each.times == max(each.ratio, 1 / each.ratio)


@pytest.mark.parametrize("cuts", [[], [1], [7, 7, 20], list(range(1, 40))], ids=str)
def test_rows_that_come_piece_by_piece_have_the_statistics_of_all_of_them(cuts):
    """Also where a large mean hides a small spread."""
    v = rows(40) * 1e-3 + 1e4
    v = v.astype(np.float32).astype(np.float64)
    got = measure_all(as_tensor(part) for part in np.split(v, cuts))
    assert got.tokens == 40
    assert np.allclose(got.per_dim_mean, v.mean(axis=0), rtol=1e-7)
    assert np.allclose(got.per_dim_std, v.std(axis=0, ddof=1), rtol=1e-6)
    assert got.global_std == pytest.approx(v.std(ddof=1), rel=1e-9)


def test_one_row_that_is_not_finite_is_refused_wherever_it_comes(refused):
    with refused("not finite"):
        measure_all([torch.ones(2, 3), torch.full((1, 3), torch.nan)])


def test_statistics_that_are_kept_are_the_same_and_broken_ones_are_not_taken():
    measured = measure(as_tensor(rows(30)))
    bundle = bundle_of(measured)
    again = of_bundle(bundle)
    assert sound(bundle, 15)
    assert torch.equal(again.per_dim_std, measured.per_dim_std)
    assert (again.global_std, again.tokens) == (measured.global_std, 30)
    broken = [
        {**bundle, "std": -bundle["std"]},
        {**bundle, "mean": bundle["mean"][:3]},
        {**bundle, "mean": bundle["mean"] * torch.nan},
        {"std": bundle["std"]},
        {**bundle, "more": bundle["std"]},
    ]
    assert not any(sound(each, 15) for each in broken)
    assert not sound(bundle, 16)


def test_the_share_of_a_blended_row_is_that_of_its_two_sides():
    """0.3 of a row three times as large is more than half."""
    assert share(0.3, 1.0, 1.0) == pytest.approx(0.3)
    assert share(0.3, 3.0, 1.0) == pytest.approx(0.9 / 1.6)
    assert (share(0.0, 3.0, 1.0), share(1.0, 3.0, 1.0), share(0.5, 0.0, 0.0)) == (0.0, 1.0, 0.0)


def test_the_sink_is_the_first_row_against_the_others():
    sequences = [rows(9), rows(5, seed=1)]
    for v in sequences:
        v[0] *= 100
    got = sink([as_tensor(v) for v in sequences])
    others = np.sort(np.concatenate([np.linalg.norm(v[1:], axis=1) for v in sequences]))
    assert got.first == pytest.approx(np.mean([np.linalg.norm(v[0]) for v in sequences]), rel=1e-5)
    assert got.others == pytest.approx(others[5], rel=1e-5), "the lower of the two in the middle"
    assert got.std == pytest.approx(np.concatenate(sequences).std(ddof=1), rel=1e-5)
    assert got.ordinary_std == pytest.approx(np.concatenate([v[1:] for v in sequences]).std(ddof=1), rel=1e-5)


def test_the_median_of_an_even_number_of_dimensions_lies_between_the_two_in_the_middle():
    text, vl = rows(40, hidden=16), rows(40, hidden=16, seed=1)
    ratio = np.sort(vl.std(axis=0, ddof=1) / text.std(axis=0, ddof=1))
    assert ratio[7] * (1 - 1e-5) <= compare(as_tensor(text), as_tensor(vl))["median_ratio"] <= ratio[8] * (1 + 1e-5)


def test_the_same_embeddings_compare_as_the_same():
    text = as_tensor(rows(30))
    got = compare(text, text)
    assert got["correlation"] == pytest.approx(1.0, abs=1e-6)
    assert (got["median_ratio"], got["worst_ratio"], got["outliers"]) == (1.0, 1.0, 0)


def test_the_worst_of_fewer_than_five_dimensions_are_all_of_them():
    assert len(compare(as_tensor(rows(9, hidden=2)), as_tensor(rows(9, hidden=2, seed=1)))["worst_dimensions"]) == 2


@pytest.mark.parametrize(("text", "vl"), [(1, 5), (5, 1), (1, 1)])
def test_one_row_has_ratios_that_are_numbers(text, vl):
    got = compare(as_tensor(rows(text)), as_tensor(rows(vl, seed=1)))
    assert all(math.isfinite(got[key]) for key in ("text_std", "vl_std", "median_ratio", "worst_ratio"))


@pytest.mark.parametrize(("text", "vl"), [(0, 5), (5, 0)])
def test_no_rows_do_not_end_in_an_index_error(text, vl):
    """What is left of one token without position 0."""
    got = compare(as_tensor(rows(text)), as_tensor(rows(vl, seed=1)))
    assert (got["text_tokens"], got["vl_tokens"]) == (text, vl)


def test_the_reference_prompts_are_many_of_both_languages_short_and_long():
    every = [*SHORT, *MEDIUM, *LONG, *SHORT_CHINESE, *LONG_CHINESE]
    assert len(set(every)) == len(every) >= 100
    assert all(prompt == prompt.strip() and "\n" not in prompt for prompt in every)
    chinese = [prompt for prompt in every if any("\u4e00" <= letter <= "\u9fff" for letter in prompt)]
    assert chinese == [*SHORT_CHINESE, *LONG_CHINESE]
    for short, long in ((SHORT, LONG), (SHORT_CHINESE, LONG_CHINESE)):
        assert min(map(len, short)) <= 12
        assert max(map(len, long)) > 5 * max(map(len, short))
    assert set(REFERENCE_PROMPTS) <= set(every)
