"""The closed forms against NumPy's and SciPy's, on data whose true map is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zvl_ext.fit.closed_form import PENALTIES, Fit, Moments, best_penalty, explained, mean_alone, procrustes, ridge
from zvl_ext.fit.projection import solve

WIDTHS = [(5, 8), (8, 5), (6, 6)]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def moments(x: np.ndarray, y: np.ndarray, parts: int = 3) -> Moments:
    """Gathered in parts, as texts come."""
    made = Moments.empty(x.shape[1], y.shape[1])
    for own, other in zip(np.array_split(x, parts), np.array_split(y, parts)):
        made.add(torch.tensor(own), torch.tensor(other))
    return made


def data(hidden: int, width: int, rows: int = 200, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = rng(seed)
    x = random.normal(size=(rows, hidden)) * random.uniform(0.2, 3, hidden) + random.normal(size=hidden)
    weight, bias = random.normal(size=(hidden, width)), random.normal(size=width)
    return x, x @ weight + bias + noise * random.normal(size=(rows, width))


def squares(fit: Fit, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.square(x @ fit.weight.numpy() + fit.bias.numpy() - y).sum())


@pytest.mark.parametrize(("hidden", "width"), WIDTHS)
def test_without_a_penalty_it_is_numpys_least_squares(hidden: int, width: int) -> None:
    x, y = data(hidden, width)
    wanted = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]
    got = ridge(moments(x, y), 1e-14)
    np.testing.assert_allclose(np.r_[got.weight.numpy(), got.bias.numpy()[None]], wanted, atol=1e-9)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 30.0])
def test_a_penalty_is_more_rows_of_a_least_squares(penalty: float) -> None:
    """Ridge regression is least squares with a row for each dimension that wants its weights to be 0."""
    x, y = data(6, 4)
    own, other = x - x.mean(0), y - y.mean(0)
    size = penalty * np.square(own).sum(0).mean()
    wanted = np.linalg.lstsq(np.r_[own, np.sqrt(size) * np.eye(6)], np.r_[other, np.zeros((6, 4))], rcond=None)[0]
    got = ridge(moments(x, y), penalty)
    np.testing.assert_allclose(got.weight.numpy(), wanted, atol=1e-9)
    np.testing.assert_allclose(got.bias.numpy(), y.mean(0) - x.mean(0) @ wanted, atol=1e-9)


@pytest.mark.parametrize(("hidden", "width"), WIDTHS)
def test_a_turn_with_a_scale_is_found(hidden: int, width: int) -> None:
    x, _ = data(hidden, width, seed=4)
    turn = np.linalg.qr(rng(5).normal(size=(max(hidden, width),) * 2))[0][:hidden, :width]
    if hidden > width:  # only what is mapped varies, so that the turn is all there is
        x = x @ turn @ turn.T
    y = 1.7 * x @ turn + rng(6).normal(size=width)
    got = procrustes(moments(x, y))
    np.testing.assert_allclose(x @ got.weight.numpy() + got.bias.numpy(), y, atol=1e-9)
    if hidden <= width:
        np.testing.assert_allclose(got.weight.numpy() @ got.weight.numpy().T, 1.7**2 * np.eye(hidden), atol=1e-9)


@pytest.mark.parametrize(("hidden", "width"), [(5, 8), (6, 6)])
def test_with_noise_it_is_scipys(hidden: int, width: int) -> None:
    """SciPy turns within one width: the narrower rows are filled up with zeros, which leaves the best map what it
    is."""
    scipy = pytest.importorskip("scipy.linalg")
    x, y = data(hidden, width, noise=3.0, seed=14)
    got = procrustes(moments(x, y))
    filled = [np.pad(each - each.mean(0), ((0, 0), (0, max(hidden, width) - each.shape[1]))) for each in (x, y)]
    rotation, strength = scipy.orthogonal_procrustes(*filled)
    scale = strength / np.square(filled[0]).sum()
    np.testing.assert_allclose(filled[0] @ rotation * scale, (x - x.mean(0)) @ got.weight.numpy(), atol=1e-9)


def test_of_all_turns_with_a_scale_it_is_the_best() -> None:
    x, y = data(5, 7, noise=2.0, seed=7)
    best = procrustes(moments(x, y))
    least, random = squares(best, x, y), rng(8)
    for _ in range(50):
        near = best.weight.numpy() @ np.linalg.qr(np.eye(7) + 0.05 * random.normal(size=(7, 7)))[0]
        for scale in (0.97, 1.0, 1.03):
            weight = torch.tensor(scale * near)
            other = Fit(weight, torch.tensor(y.mean(0)) - torch.tensor(x.mean(0)) @ weight)
            assert squares(other, x, y) >= least


def test_errors_are_those_of_the_rows() -> None:
    (x, y), (held_x, held_y) = data(6, 4), data(6, 4, rows=40, seed=9)
    learned, held = moments(x, y), moments(held_x, held_y)
    for fit in (ridge(learned, 0.1), procrustes(learned), mean_alone(learned)):
        assert fit.error(held) == pytest.approx(squares(fit, held_x, held_y))
    base = np.square(held_y - y.mean(0)).sum()
    wanted = 1 - squares(ridge(learned, 0.1), held_x, held_y) / base
    assert explained(ridge(learned, 0.1), held, mean_alone(learned)) == pytest.approx(wanted)


@pytest.mark.parametrize("noise", [0.01, 3.0, 100.0])
def test_the_penalty_is_the_one_that_held_rows_want(noise: float) -> None:
    """Against trying them all; few rows and much noise want a large one."""
    x, y = data(12, 3, rows=80, noise=noise, seed=10)
    learned, held = moments(x[:20], y[:20]), moments(x[20:], y[20:])
    got = best_penalty(learned, held)
    assert got == min(PENALTIES, key=lambda each: squares(ridge(learned, each), x[20:], y[20:]))
    assert got >= 1e-2 if noise >= 3 else got <= 1e-2


@pytest.mark.parametrize("method", ["ridge", "procrustes"])
def test_where_both_models_are_the_same_it_changes_nothing(method: str) -> None:
    x, _ = data(6, 6)
    found = solve(moments(x[:150], x[:150]), moments(x[150:], x[150:]), method)
    np.testing.assert_allclose(found.fit.weight.numpy(), np.eye(6), atol=1e-6)
    np.testing.assert_allclose(found.fit.bias.numpy(), 0, atol=1e-6)
    assert found.as_it_is == 1.0
    assert not found.gains


def test_one_that_learns_nothing_gains_nothing() -> None:
    x, y = rng(11).normal(size=(60, 8)), rng(12).normal(size=(60, 5))
    assert not solve(moments(x[:12], y[:12]), moments(x[12:], y[12:]), "procrustes").gains
    x, y = data(8, 5)
    assert solve(moments(x[:150], y[:150]), moments(x[150:], y[150:]), "ridge").gains


def test_rows_that_never_vary_give_the_mean() -> None:
    x, y = np.ones((10, 4)), rng(13).normal(size=(10, 3))
    for fit in (ridge(moments(x, y), 1e-3), procrustes(moments(x, y))):
        assert torch.isfinite(fit.weight).all()
        np.testing.assert_allclose(x[0] @ fit.weight.numpy() + fit.bias.numpy(), y.mean(0), atol=1e-9)
