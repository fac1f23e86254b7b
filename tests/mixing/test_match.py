"""Matching lengths: linear resampling along the sequence with half-pixel centers, or the first rows."""

import numpy as np
import pytest
import torch

from zvl_ext.mixing.match import match_length, match_text


def rows(count: int, hidden: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(count, hidden)), dtype=torch.float32)


def resampled(v: np.ndarray, n: int) -> np.ndarray:
    """Linear interpolation with align_corners False: output row i lies at (i + 1/2)·m/n - 1/2, clamped to the ends."""
    m = v.shape[0]
    at = np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
    return np.stack([np.interp(at, np.arange(m), v[:, i]) for i in range(v.shape[1])], axis=1)


@pytest.mark.parametrize(
    ("m", "n"), [(2, 7), (7, 2), (258, 14), (14, 258), (1, 5), (5, 1), (3, 4), (4, 3), (100, 99), (1, 2)]
)
def test_interpolation_is_linear_along_the_sequence(m, n):
    vl, text = rows(m), rows(n, seed=1)
    matched, kept = match_length(vl, text, "interpolate")
    assert torch.equal(kept, text)
    assert np.abs(matched.double().numpy() - resampled(vl.double().numpy(), n)).max() < 1e-4  # positions are float32


@pytest.mark.parametrize(("m", "n"), [(9, 4), (4, 9), (1, 3), (3, 1)])
def test_truncation_keeps_the_first_rows_of_both(m, n):
    vl, text = rows(m), rows(n, seed=1)
    matched, kept = match_length(vl, text, "truncate")
    assert torch.equal(matched, vl[: min(m, n)])
    assert torch.equal(kept, text[: min(m, n)])


@pytest.mark.parametrize("mode", ["interpolate", "truncate"])
def test_equal_lengths_keep_every_bit(mode):
    vl, text = rows(11), rows(11, seed=1)
    matched, kept = match_length(vl, text, mode)
    assert torch.equal(matched, vl)
    assert torch.equal(kept, text)


@pytest.mark.parametrize("n", [1, 4, 13, 40])
def test_a_constant_sequence_stays_constant(n):
    matched, _ = match_length(rows(1).expand(13, -1), rows(n), "interpolate")
    assert torch.allclose(matched, rows(1).expand(n, -1), atol=1e-6)


def test_doubling_the_rows_keeps_the_mean():
    vl = rows(8)
    matched, _ = match_length(vl, rows(16), "interpolate")
    assert torch.allclose(matched[1:-1].reshape(7, 2, 6).mean(dim=1), (vl[1:] + vl[:-1]) / 2, atol=1e-6)


def test_an_unknown_mode_is_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="unknown length match"):
        match_length(rows(2), rows(3), "repeat")


@pytest.mark.parametrize("m", [9, 12, 30])
def test_another_texts_rows_keep_the_template_one_to_one(m):
    """Template rows are attention sinks: only what stands between them is resampled."""
    vl, text = rows(m), rows(14)
    matched = match_text(vl, text, head=3, tail=5)
    assert matched.shape == text.shape
    assert torch.equal(matched[:3], vl[:3])
    assert torch.equal(matched[-5:], vl[-5:])
    between, _ = match_length(vl[3:-5], text[3:-5], "interpolate")
    assert torch.equal(matched[3:-5], between)


def test_an_empty_text_leaves_the_prompts_own_rows():
    vl, text = rows(8), rows(14)
    assert torch.equal(match_text(vl, text, head=3, tail=5)[3:-5], text[3:-5])
    assert match_text(rows(14), rows(8), head=3, tail=5).shape == (8, 6)


def test_the_same_number_of_rows_is_left_alone():
    vl = rows(14)
    assert match_text(vl, rows(14), head=3, tail=5) is vl
