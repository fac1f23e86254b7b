"""Statistics of hidden states, and the reference statistics of a text encoder. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch

from ..errors import ZvlError
from .prompts import REFERENCE_PROMPTS as REFERENCE_PROMPTS

FLOOR = 1e-6  # smallest standard deviation that is divided by


@dataclass(frozen=True)
class ReferenceStatistics:
    """What text embeddings of one text encoder look like.

    Attributes:
        per_dim_mean: float32 [hidden].
        per_dim_std: float32 [hidden], unbiased.
        global_std: Standard deviation of all values, unbiased.
        tokens: How many rows they were measured on; 0 where nobody knows.
    """

    per_dim_mean: torch.Tensor
    per_dim_std: torch.Tensor
    global_std: float
    tokens: int = 0


def bundle_of(statistics: ReferenceStatistics) -> dict[str, torch.Tensor]:
    """The same as tensors, for a store."""
    told = torch.tensor([statistics.global_std, float(statistics.tokens)], dtype=torch.float64)
    return {"mean": statistics.per_dim_mean, "std": statistics.per_dim_std, "told": told}


def of_bundle(bundle: dict[str, torch.Tensor]) -> ReferenceStatistics:
    """Statistics of what `bundle_of` gave."""
    overall, tokens = bundle["told"].tolist()
    return ReferenceStatistics(bundle["mean"], bundle["std"], overall, int(tokens))


def sound(bundle: dict[str, torch.Tensor], width: int) -> bool:
    """Whether a bundle holds statistics of rows of that width."""
    shapes = {"mean": (width,), "std": (width,), "told": (2,)}
    return (
        set(bundle) == set(shapes)
        and all(bundle[name].shape == shape and bool(bundle[name].isfinite().all()) for name, shape in shapes.items())
        and bool((bundle["std"] >= 0).all() and (bundle["told"] >= 0).all())
    )


def std(values: torch.Tensor, dim: int | None = None) -> torch.Tensor:
    """Unbiased standard deviation; zero, not NaN, where there is only one value."""
    count = values.numel() if dim is None else values.shape[dim]
    if count < 2:
        return (
            values.new_zeros(())
            if dim is None
            else values.new_zeros([s for i, s in enumerate(values.shape) if i != dim])
        )
    return values.std() if dim is None else values.std(dim=dim)


class Moments:
    """Means and spreads of rows that come piece by piece, in float64, which the squares of no float32 leave (Chan,
    Golub and LeVeque, 1979). Nothing of the rows is kept."""

    def __init__(self) -> None:
        self.tokens = 0
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._squares = torch.zeros(0, dtype=torch.float64)  # sums of squared distances from the mean

    def add(self, rows: torch.Tensor) -> None:
        """Take rows [tokens, hidden] in."""
        rows = rows.detach().cpu().double()
        if not len(self._mean):
            self._mean, self._squares = rows.new_zeros(2, rows.shape[1])
        if not len(rows):
            return
        mean, total = rows.mean(0), self.tokens + len(rows)
        step = mean - self._mean
        self._squares = (
            self._squares + (rows - mean).square().sum(0) + step.square() * (self.tokens * len(rows) / total)
        )
        self._mean = self._mean + step * (len(rows) / total)
        self.tokens = total

    def statistics(self) -> ReferenceStatistics:
        """Of all rows so far."""
        values = self.tokens * len(self._mean)
        squares = self._squares.sum() + self.tokens * (self._mean - self._mean.mean()).square().sum()
        spread = (self._squares / max(self.tokens - 1, 1)).sqrt()
        overall = float((squares / (values - 1)).sqrt()) if values > 1 else 0.0
        return ReferenceStatistics(self._mean.float(), spread.float(), overall, self.tokens)


def moments(*parts: torch.Tensor) -> ReferenceStatistics:
    """Statistics of rows, [tokens, hidden] each, together; whatever their values are."""
    found = Moments()
    for rows in parts:
        found.add(rows)
    return found.statistics()


def measure(rows: torch.Tensor) -> ReferenceStatistics:
    """Reference statistics of text embeddings, [tokens of all prompts, hidden].

    Raises:
        ZvlError: the text embeddings have values that are not finite.
    """
    return measure_all([rows])


def measure_all(parts: Iterable[torch.Tensor]) -> ReferenceStatistics:
    """As `measure`, of the text embeddings of several prompts, [tokens, hidden] each, which may come one by one.

    Raises:
        ZvlError: the text embeddings have values that are not finite.
    """
    found = Moments()
    for rows in parts:
        if not rows.isfinite().all():
            raise ZvlError(
                "The text encoder's reference statistics are not finite. Let the text encoder compute in bfloat16 or "
                "float32, or choose normalization sink_aware."
            )
        found.add(rows)
    return found.statistics()


class Comparison(TypedDict):
    """How far Qwen3-VL's hidden states are from text embeddings, as plain data.

    `text_std` and `vl_std` over all values; `correlation` of the per-dimension standard deviations; `median_ratio` and
    `worst_ratio` of them (worst in either direction: max(r, 1/r)) with `worst_dimensions`, the five worst as
    [dimension, ratio vl/text]; `outliers`, how many are over the threshold.
    """

    text_tokens: int
    vl_tokens: int
    text_std: float
    vl_std: float
    correlation: float
    median_ratio: float
    worst_ratio: float
    worst_dimensions: list[list[float]]
    outliers: int


class Worst(NamedTuple):
    """A dimension that is out.

    Attributes:
        ratio: Of the standard deviations, vl/text.
        text, vl: The standard deviations.
    """

    dimension: int
    ratio: float
    text: float
    vl: float

    @property
    def times(self) -> float:
        """How far it is out, whichever way: at least 1."""
        return max(self.ratio, 1 / self.ratio)

    @property
    def direction(self) -> str:
        """Which way, of what Qwen3-VL gives."""
        return "too small" if self.ratio < 1 else "too large"


def worst_of(text: ReferenceStatistics, vl: ReferenceStatistics, count: int = 5) -> list[Worst]:
    """The dimensions that are out most, either way, the worst first."""
    ratio = ratios(text, vl)
    distance = torch.maximum(ratio, 1 / ratio)
    worst = distance.topk(min(count, distance.numel())).indices.tolist()
    return [Worst(i, float(ratio[i]), float(text.per_dim_std[i]), float(vl.per_dim_std[i])) for i in worst]


def ratios(text: ReferenceStatistics, vl: ReferenceStatistics) -> torch.Tensor:
    """How much larger each dimension's standard deviation is than the text embeddings', float64 [hidden]."""
    return vl.per_dim_std.double().clamp_min(FLOOR) / text.per_dim_std.double().clamp_min(FLOOR)


def compare(text: torch.Tensor, vl: torch.Tensor, threshold: float = 10.0) -> Comparison:
    """Compare text and Qwen3-VL's hidden states, float [tokens, hidden] each, in the terms of the published
    findings."""
    return compared(moments(text), moments(vl), threshold)


def compared(text: ReferenceStatistics, vl: ReferenceStatistics, threshold: float = 10.0) -> Comparison:
    """As `compare`, from the statistics of both sides."""
    ratio = ratios(text, vl)
    distance = torch.maximum(ratio, 1 / ratio)
    return {
        "text_tokens": text.tokens,
        "vl_tokens": vl.tokens,
        "text_std": text.global_std,
        "vl_std": vl.global_std,
        "correlation": _correlation(text.per_dim_std.double(), vl.per_dim_std.double()),
        "median_ratio": float(ratio.median()),
        "worst_ratio": float(distance.max()),
        "worst_dimensions": [[worst.dimension, worst.ratio] for worst in worst_of(text, vl)],
        "outliers": int((distance > threshold).sum()),
    }


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of two rows of numbers; 0 where one of them does not vary."""
    if one.numel() < 2:
        return 0.0
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1].nan_to_num())


def typical_norm(rows: torch.Tensor) -> float:
    """The median of the rows' norms; 0 of no rows."""
    return float(rows.norm(dim=1).median()) if len(rows) else 0.0


def share(alpha: float, vl: float, text: float) -> float:
    """How much of a blended row is Qwen3-VL's: alpha·vl / (alpha·vl + (1 - alpha)·text), with the norms of both sides'
    rows. At sizes that are alike it is alpha itself."""
    own, others = alpha * vl, (1 - alpha) * text
    return own / (own + others) if own + others else 0.0


class Sink(NamedTuple):
    """How much the first token stands out, which is the attention sink of a language model.

    Attributes:
        first: Mean norm of the first rows.
        others: Median norm of all others.
        std, ordinary_std: The standard deviation of all values, with and without the first rows.
    """

    first: float
    others: float
    std: float
    ordinary_std: float

    @property
    def ratio(self) -> float:
        return self.first / self.others if self.others else 0.0


def sink(states: list[torch.Tensor]) -> Sink:
    """Of several sequences' hidden states, [tokens, hidden] each."""
    first = torch.stack([each[0].norm() for each in states]).mean()
    ordinary = [each[1:] for each in states]
    whole, rest = moments(*states), moments(*ordinary)
    return Sink(float(first), typical_norm(torch.cat(ordinary)), whole.global_std, rest.global_std)
