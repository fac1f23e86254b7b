"""Affine maps between two sets of rows in closed form, from sums that are gathered row by row. Pure functions on
float64.

- Ridge regression (Hoerl and Kennard 1970): the least squares with a penalty on the weight's squares. How large, is
  decided on rows that were not learned from.
- Orthogonal Procrustes with a scale (Schönemann 1966): a rotation alone, from one singular value decomposition. With
  more rows' dimensions than targets' it keeps the aligned ones and the scale is the least squares' for that rotation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

PENALTIES = tuple(10.0**power for power in range(-10, 3))  # as shares of the mean variance of the rows' dimensions


@dataclass
class Moments:
    """Sums over pairs of rows x and y, from which everything here is made.

    Attributes:
        rows: How many pairs.
        x, y: Sums, [hidden] and [width].
        xx, xy: Sums of the products, [hidden, hidden] and [hidden, width].
        yy: Sum of the squares of y.
    """

    rows: int
    x: torch.Tensor
    y: torch.Tensor
    xx: torch.Tensor
    xy: torch.Tensor
    yy: float = 0.0

    @classmethod
    def empty(cls, hidden: int, width: int) -> Moments:
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        return cls(0, zeros(hidden), zeros(width), zeros(hidden, hidden), zeros(hidden, width))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take pairs along: x [n, hidden], y [n, width]."""
        x, y = x.double(), y.double()
        self.rows += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy += float(y.square().sum())

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def about(self, x: torch.Tensor, y: torch.Tensor) -> Moments:
        """The same of x and y less two points [hidden] and [width]."""
        return Moments(
            self.rows,
            self.x - self.rows * x,
            self.y - self.rows * y,
            self.xx - torch.outer(self.x, x) - torch.outer(x, self.x) + self.rows * torch.outer(x, x),
            self.xy - torch.outer(self.x, y) - torch.outer(x, self.y) + self.rows * torch.outer(x, y),
            self.yy - 2 * float(self.y @ y) + self.rows * float(y @ y),
        )

    @property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x / self.rows, self.y / self.rows


@dataclass(frozen=True)
class Fit:
    """An affine map: x · weight + bias.

    Attributes:
        weight: float64 [hidden, width].
        bias: float64 [width].
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def error(self, pairs: Moments) -> float:
        """The sum of the squares of what is between y and the map's."""
        at_bias = pairs.about(torch.zeros_like(pairs.x), self.bias)
        fitted = float((self.weight * (pairs.xx @ self.weight)).sum())
        return max(0.0, at_bias.yy - 2 * float((self.weight * at_bias.xy).sum()) + fitted)


def _through(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> Fit:
    """The map of that weight that takes one point to another."""
    return Fit(weight, y - x @ weight)


def mean_alone(pairs: Moments) -> Fit:
    """The map that gives the mean of y, whatever x is: what any other has to be better than."""
    return _through(torch.zeros_like(pairs.xy), *pairs.means)


def explained(fit: Fit, pairs: Moments, base: Fit) -> float:
    """The share of another map's squared error on some pairs that a map does not make; 1 is perfect, 0 no better."""
    worst = base.error(pairs)
    return 1.0 - fit.error(pairs) / worst if worst > 0 else 0.0


def best_penalty(learned: Moments, held: Moments) -> float:
    """The one of PENALTIES with which the ridge regression over learned pairs fits held ones best."""
    at = learned.means
    own, other = learned.about(*at), held.about(*at)
    values, vectors = torch.linalg.eigh(own.xx)
    values, targets = values.clamp_min(0.0), vectors.T @ own.xy
    mean = float(values.mean()) or 1.0
    # For weights V diag(1 / (values + penalty)) targets, the held error is a quadratic form in 1 / (values + penalty).
    linear = ((vectors.T @ other.xy) * targets).sum(1)
    square = (targets @ targets.T) * (vectors.T @ other.xx @ vectors)

    def error(penalty: float) -> float:
        shrunk = 1.0 / (values + penalty * mean)
        return float(shrunk @ square @ shrunk - 2 * linear @ shrunk)

    return min(PENALTIES, key=error)


def ridge(pairs: Moments, penalty: float) -> Fit:
    """The ridge regression with a penalty that is so many times the mean variance of the rows' dimensions."""
    at = pairs.means
    own = pairs.about(*at)
    mean = float(own.xx.diagonal().mean()) or 1.0
    penalized = own.xx + penalty * mean * torch.eye(len(own.xx), dtype=torch.float64)
    return _through(torch.linalg.solve(penalized, own.xy), *at)


def procrustes(pairs: Moments) -> Fit:
    """The best rotation with a scale: of y's width a part where x is narrower, of x's the aligned part where it is
    wider."""
    at = pairs.means
    own = pairs.about(*at)
    left, strength, right = torch.linalg.svd(own.xy, full_matrices=False)
    rotation = left @ right
    spread = float((rotation * (own.xx @ rotation)).sum())
    return _through(rotation * (float(strength.sum()) / spread if spread > 0 else 0.0), *at)
