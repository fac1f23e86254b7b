"""Normalization and outlier repair against the formulas, written here in NumPy and float64."""

import numpy as np
import pytest
import torch

from zvl_ext.mixing.normalize import Target, normalize, repair_outliers
from zvl_ext.mixing.statistics import ReferenceStatistics

HIDDEN = 24
MODES = ("global", "per_dim", "hybrid")


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Hidden states of unlike dimensions, some far from zero, one with a massive first row."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, HIDDEN)) * random.uniform(0.5, 20, HIDDEN) + random.normal(size=HIDDEN) * 5
    values[0, 3] += 500
    return values.astype(np.float32).astype(np.float64)


@pytest.fixture
def reference() -> ReferenceStatistics:
    random = np.random.default_rng(99)
    mean, spread = random.normal(size=HIDDEN) * 3, random.uniform(1, 50, HIDDEN)
    return ReferenceStatistics(torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32), 61.1)


def expected(v: np.ndarray, mode: str, reference: ReferenceStatistics) -> np.ndarray:
    mean, spread = reference.per_dim_mean.double().numpy(), reference.per_dim_std.double().numpy()
    by_all = v * (reference.global_std / v.std(ddof=1))
    z = (v - v.mean(axis=0)) / np.maximum(v.std(axis=0, ddof=1), 1e-6)
    by_dimension = np.clip(z, -3, 3) * spread + mean
    return {"global": by_all, "per_dim": by_dimension, "hybrid": (by_all + by_dimension) / 2}[mode]


def as_tensor(v: np.ndarray) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float32)


def assert_close(got: torch.Tensor, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert got.dtype == torch.float32
    assert got.shape == wanted.shape
    assert np.abs(got.double().numpy() - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3, 17, 300])
def test_every_mode_is_its_formula(mode, count, reference):
    v = rows(count)
    assert_close(normalize(as_tensor(v), mode, Target(reference)), expected(v, mode, reference))


def test_none_changes_nothing(reference):
    v = as_tensor(rows(9))
    assert torch.equal(normalize(v, "none", Target()), v)


@pytest.mark.parametrize("mode", MODES)
def test_the_input_is_not_written_into(mode, reference):
    v = as_tensor(rows(9))
    before = v.clone()
    normalize(v, mode, Target(reference))
    repair_outliers(v, "zero", 1.0, reference)
    assert torch.equal(v, before)


def test_global_brings_the_spread_of_all_values_to_the_references(reference):
    v = normalize(as_tensor(rows(50)), "global", Target(reference))
    assert float(v.double().std()) == pytest.approx(61.1, rel=1e-5)


def test_per_dim_brings_every_dimension_to_the_references_mean_and_spread(reference):
    random = np.random.default_rng(5)
    v = random.uniform(-1, 1, (400, HIDDEN))  # nothing reaches three standard deviations, so nothing is clipped
    result = normalize(as_tensor(v), "per_dim", Target(reference)).double()
    assert torch.allclose(result.mean(dim=0), reference.per_dim_mean.double(), atol=1e-3)
    assert torch.allclose(result.std(dim=0), reference.per_dim_std.double(), rtol=1e-4)


def test_per_dim_clips_at_three_standard_deviations(reference):
    v = rows(200)
    v[7, 5] += 1e4
    result = normalize(as_tensor(v), "per_dim", Target(reference)).double()
    limit = 3 * reference.per_dim_std.double()
    assert ((result - reference.per_dim_mean).abs() <= limit * (1 + 1e-5)).all()
    assert float(result[7, 5]) == pytest.approx(float(reference.per_dim_mean[5] + limit[5]), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_dimension_stays_finite(mode, reference):
    v = rows(20)
    v[:, 4] = 7.0
    assert_close(normalize(as_tensor(v), mode, Target(reference)), expected(v, mode, reference))


def test_a_constant_dimension_becomes_the_references_mean(reference):
    v = rows(20)
    v[:, 4] = 8.0
    result = normalize(as_tensor(v), "per_dim", Target(reference))
    assert torch.allclose(result[:, 4], reference.per_dim_mean[4].expand(20))


def test_one_row_has_no_spread_per_dimension_and_becomes_the_references_mean(reference):
    assert torch.equal(normalize(as_tensor(rows(1)), "per_dim", Target(reference)), reference.per_dim_mean[None])


def test_one_row_is_scaled_by_its_own_spread(reference):
    v = rows(1)
    assert_close(normalize(as_tensor(v), "global", Target(reference)), v * (reference.global_std / v.std(ddof=1)))


def test_zeros_stay_finite_in_every_mode(reference):
    for mode in MODES:
        assert torch.isfinite(normalize(torch.zeros(5, HIDDEN), mode, Target(reference))).all()


def test_an_unknown_mode_is_a_mistake_of_the_program(reference):
    with pytest.raises(ValueError, match="unknown normalization"):
        normalize(torch.zeros(2, HIDDEN), "median", Target(reference))


# --- outlier repair


def with_ratios(ratios: list[float], reference: ReferenceStatistics, count: int = 40) -> np.ndarray:
    """Rows whose std in dimension i is ratios[i] times the reference's."""
    v = np.random.default_rng(3).normal(size=(count, HIDDEN)) + 2
    v /= v.std(axis=0, ddof=1)
    wanted = np.ones(HIDDEN)
    wanted[: len(ratios)] = ratios
    return v * wanted * reference.per_dim_std.double().numpy()


RATIOS = [20.0, 1 / 20, 9.9, 1 / 9.9, 10.1, 1 / 10.1, 617.0, 1e-3, 1.0]
OUTLIERS = [0, 1, 4, 5, 6, 7]


@pytest.mark.parametrize("mode", ["zero", "clamp", "scale"])
def test_outliers_in_both_directions_are_repaired_and_counted(mode, reference):
    v = with_ratios(RATIOS, reference)
    ratio = v.std(axis=0, ddof=1) / reference.per_dim_std.double().numpy()
    factor = np.ones(HIDDEN)
    for i in OUTLIERS:
        factor[i] = {"zero": 0.0, "clamp": np.clip(ratio[i], 0.1, 10) / ratio[i], "scale": 1 / ratio[i]}[mode]
    result, count = repair_outliers(as_tensor(v), mode, 10.0, reference)
    assert count == len(OUTLIERS)
    assert_close(result, v * factor)


@pytest.mark.parametrize("mode", ["zero", "clamp", "scale"])
def test_dimensions_that_are_no_outliers_keep_their_bits(mode, reference):
    v = as_tensor(with_ratios(RATIOS, reference))
    result, _ = repair_outliers(v, mode, 10.0, reference)
    rest = [i for i in range(HIDDEN) if i not in OUTLIERS]
    assert torch.equal(result[:, rest], v[:, rest])


@pytest.mark.parametrize(
    ("mode", "ratio", "becomes"),
    [("clamp", 50, 10), ("clamp", 0.01, 0.1), ("scale", 50, 1), ("scale", 0.01, 1), ("zero", 50, 0)],
)
def test_the_spread_after_the_repair_is_the_promised_one(mode, ratio, becomes, reference):
    result, _ = repair_outliers(as_tensor(with_ratios([ratio], reference)), mode, 10.0, reference)
    assert float(result[:, 0].double().std() / reference.per_dim_std[0]) == pytest.approx(becomes, rel=1e-4)


def test_no_repair_counts_nothing_and_needs_no_statistics():
    v = as_tensor(rows(5))
    result, count = repair_outliers(v, "none", 10.0, None)
    assert torch.equal(result, v)
    assert count == 0


def test_a_higher_threshold_repairs_fewer(reference):
    v = as_tensor(with_ratios(RATIOS, reference))
    assert [repair_outliers(v, "zero", threshold, reference)[1] for threshold in (2.0, 10.0, 100.0, 1000.0)] == [
        8,
        6,
        2,
        0,
    ]


@pytest.mark.parametrize("mode", ["zero", "clamp", "scale"])
@pytest.mark.parametrize(("direction", "repaired"), [("too large", [0, 4, 6]), ("too small", [1, 5, 7])])
def test_a_repair_in_one_direction_leaves_the_other_alone(mode, direction, repaired, reference):
    v = as_tensor(with_ratios(RATIOS, reference))
    result, count = repair_outliers(v, mode, 10.0, reference, direction)
    assert count == len(repaired)
    rest = [i for i in range(HIDDEN) if i not in repaired]
    assert torch.equal(result[:, rest], v[:, rest])
    both, _ = repair_outliers(v, mode, 10.0, reference, "both")
    assert torch.equal(result[:, repaired], both[:, repaired])


def test_the_published_outlier_is_one_of_image_tokens_that_lack_what_the_text_has(reference):
    """Dimension 396: the text encoder's std is 927.6, the image tokens' 1.5. Only who asks for it has it multiplied."""
    published = ReferenceStatistics(reference.per_dim_mean, reference.per_dim_std.clone(), 61.1)
    published.per_dim_std[0] = 927.6
    v = as_tensor(with_ratios([1.5 / 927.6], published))
    kept, count = repair_outliers(v, "scale", 10.0, published, "too large")
    assert count == 0
    assert torch.equal(kept, v)
    blown, count = repair_outliers(v, "scale", 10.0, published, "too small")
    assert count == 1
    assert float(blown[:, 0].std() / v[:, 0].std()) == pytest.approx(927.6 / 1.5, rel=1e-3)


def test_an_unknown_direction_is_refused(reference):
    with pytest.raises(ValueError, match="outlier direction 'sideways'"):
        repair_outliers(torch.randn(4, HIDDEN), "zero", 10.0, reference, "sideways")


@pytest.mark.parametrize("mode", ["clamp", "scale"])
def test_what_has_no_spread_is_not_blown_up(mode, reference):
    """No factor gives a constant dimension a spread: dividing by the floor would multiply it by a million."""
    v = with_ratios([], reference)
    v[:, 2] = 5.0
    for values in (as_tensor(v), as_tensor(v[:1])):  # one constant dimension; one row, where all are constant
        result, _ = repair_outliers(values, mode, 10.0, reference)
        assert float(result.abs().max()) <= float(values.abs().max()) * 10


def test_an_unknown_repair_is_a_mistake_of_the_program(reference):
    with pytest.raises(ValueError, match="unknown outlier repair"):
        repair_outliers(torch.zeros(2, HIDDEN), "remove", 10.0, reference)
