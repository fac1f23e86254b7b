"""Blending against the formulas, written here in NumPy and float64."""

import numpy as np
import pytest
import torch

from zvl_ext.mixing.blend import blend

MODES = ("linear", "slerp", "adain", "adain_per_dim")


def pair(count: int = 12, hidden: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    text = random.normal(size=(count, hidden)) * 30 + random.normal(size=hidden) * 4
    vl = random.normal(size=(count, hidden)) * random.uniform(1, 9, hidden) - 2
    return text.astype(np.float32).astype(np.float64), vl.astype(np.float32).astype(np.float64)


def as_tensor(v: np.ndarray) -> torch.Tensor:
    return torch.tensor(v, dtype=torch.float32)


def expected(text: np.ndarray, vl: np.ndarray, alpha: float, mode: str) -> np.ndarray:
    if mode == "linear":
        return alpha * vl + (1 - alpha) * text
    if mode == "slerp":
        result = np.empty_like(text)
        for i, (t, v) in enumerate(zip(text, vl)):
            angle = np.arccos(np.dot(t, v) / np.linalg.norm(t) / np.linalg.norm(v))
            result[i] = (np.sin((1 - alpha) * angle) * t + np.sin(alpha * angle) * v) / np.sin(angle)
        return result
    axis = 1 if mode == "adain" else 0
    moments = [(x.mean(axis=axis, keepdims=True), x.std(axis=axis, ddof=1, keepdims=True)) for x in (text, vl)]
    (text_mean, text_std), (vl_mean, vl_std) = moments
    styled = (text - text_mean) / text_std * vl_std + vl_mean
    return alpha * styled + (1 - alpha) * text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.5, 0.9, 1.0])
def test_every_mode_is_its_formula(mode, alpha):
    text, vl = pair()
    got = blend(as_tensor(text), as_tensor(vl), alpha, mode)
    wanted = expected(text, vl, alpha, mode)
    assert got.dtype == torch.float32
    assert np.abs(got.double().numpy() - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("mode", MODES)
def test_alpha_0_is_the_text_bit_for_bit(mode):
    """Also where arithmetic would change something: tiny, huge and not finite values, and the sign of zero."""
    text, vl = (as_tensor(x) for x in pair())
    text[0, :6] = torch.tensor([-0.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan")])
    vl[1, 0] = float("nan")
    got = blend(text, vl, 0.0, mode)
    assert torch.equal(got.view(torch.int32), text.view(torch.int32))


def test_linear_alpha_1_is_the_vl_side():
    text, vl = (as_tensor(x) for x in pair())
    assert torch.equal(blend(text, vl, 1.0, "linear"), vl)


def test_slerp_alpha_1_is_the_vl_side_up_to_rounding():
    text, vl = (as_tensor(x) for x in pair())
    assert torch.allclose(blend(text, vl, 1.0, "slerp"), vl, atol=1e-3)


def test_slerp_keeps_the_length_of_equally_long_rows():
    text, vl = (torch.nn.functional.normalize(as_tensor(x), dim=1) for x in pair())
    for alpha in (0.2, 0.5, 0.8):
        assert torch.allclose(blend(text, vl, alpha, "slerp").norm(dim=1), torch.ones(len(text)), atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 3.0, -1.0, -0.5])
def test_slerp_of_parallel_and_opposite_rows_is_linear(factor):
    """They have no arc between them: 0/0 in the formula."""
    text, _ = pair()
    got = blend(as_tensor(text), as_tensor(text * factor), 0.3, "slerp").double().numpy()
    assert np.abs(got - (0.3 * factor + 0.7) * text).max() <= 1e-4 * np.abs(text).max()


@pytest.mark.parametrize("angle", [0.02, 0.1, 3.0, 3.1])
def test_slerp_near_parallel_and_near_opposite_is_still_the_formula(angle):
    text, other = pair()
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    other -= (other * text).sum(axis=1, keepdims=True) * text
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    vl = np.cos(angle) * text + np.sin(angle) * other
    got = blend(as_tensor(text), as_tensor(vl), 0.3, "slerp").double().numpy()
    assert np.abs(got - expected(text, vl, 0.3, "slerp")).max() < 1e-3


def test_slerp_with_a_row_of_zeros_stays_finite():
    text, vl = (as_tensor(x) for x in pair())
    text[0], vl[1], text[2], vl[2] = 0, 0, 0, 0
    assert torch.isfinite(blend(text, vl, 0.5, "slerp")).all()


def test_adain_gives_every_row_the_vl_rows_mean_and_spread():
    text, vl = (as_tensor(x) for x in pair())
    got = blend(text, vl, 1.0, "adain")
    assert torch.allclose(got.mean(dim=1), vl.mean(dim=1), atol=1e-3)
    assert torch.allclose(got.std(dim=1), vl.std(dim=1), rtol=1e-4)


def test_adain_per_dim_gives_every_dimension_the_vl_dimensions_mean_and_spread():
    text, vl = (as_tensor(x) for x in pair())
    got = blend(text, vl, 1.0, "adain_per_dim")
    assert torch.allclose(got.mean(dim=0), vl.mean(dim=0), atol=1e-3)
    assert torch.allclose(got.std(dim=0), vl.std(dim=0), rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_one_row_is_blended_without_a_not_a_number(mode):
    text, vl = (as_tensor(x) for x in pair(count=1))
    assert torch.isfinite(blend(text, vl, 0.5, mode)).all()


def test_adain_per_dim_of_one_row_is_the_linear_blend():
    """One row has no spread per dimension: its mean is itself."""
    text, vl = (as_tensor(x) for x in pair(count=1))
    assert torch.allclose(blend(text, vl, 0.4, "adain_per_dim"), blend(text, vl, 0.4, "linear"), atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_constant_rows_and_columns_stay_finite(mode):
    text, vl = (as_tensor(x) for x in pair())
    text[0], vl[1] = 5.0, 3.0
    text[:, 0], vl[:, 1] = 5.0, 3.0
    assert torch.isfinite(blend(text, vl, 0.5, mode)).all()


@pytest.mark.parametrize("mode", MODES)
def test_neither_input_is_written_into(mode):
    text, vl = (as_tensor(x) for x in pair())
    before = text.clone(), vl.clone()
    blend(text, vl, 0.5, mode)
    assert torch.equal(text, before[0])
    assert torch.equal(vl, before[1])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_its_range_is_a_mistake_of_the_program(alpha):
    text, vl = (as_tensor(x) for x in pair())
    with pytest.raises(ValueError, match="alpha"):
        blend(text, vl, alpha)


def test_unlike_shapes_and_unknown_modes_are_mistakes_of_the_program():
    text, vl = (as_tensor(x) for x in pair())
    with pytest.raises(ValueError, match="shapes differ"):
        blend(text, vl[:-1], 0.5)
    with pytest.raises(ValueError, match="unknown blend mode"):
        blend(text, vl, 0.5, "multiply")
