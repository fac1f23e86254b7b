"""Bringing Qwen3-VL's hidden states to the statistics of the text encoder. Pure functions on [tokens, hidden].

`global`, `per_dim` and `hybrid`, and the outlier repair before them, are the research's own definitions, over all rows.

`sink_aware` leaves position 0 out of every statistic. In these language models the first token carries massive
activations in two or three dimensions (the attention sink), which decide the standard deviation of a whole text
sequence and which
image tokens do not have: scaling image tokens to such a figure makes them several times too large, and alpha 0.3 means
    0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .family import member
from .statistics import FLOOR, ReferenceStatistics, std

CLIP = 3.0  # standard deviations at which per_dim clips


@dataclass(frozen=True)
class Target:
    """What hidden states are brought to.

    Attributes:
        statistics: The text encoder's; needed where `Normalization.needs_statistics` says so.
        text: The text embeddings, float [n, hidden].
        holds_first: Whether row 0 of the hidden states is position 0 of the sequence.
    """

    statistics: ReferenceStatistics | None = None
    text: torch.Tensor | None = None
    holds_first: bool = False

    @property
    def required(self) -> ReferenceStatistics:
        """The statistics, where they are needed."""
        if self.statistics is None:
            raise ValueError("this normalization needs the text encoder's reference statistics")
        return self.statistics


@dataclass(frozen=True)
class Normalization:
    """One way to normalize.

    Attributes:
        function: float [m, hidden] and the target in, the same shape out.
        needs_statistics: Whether it uses the text encoder's reference statistics.
        keeps_first: Whether row 0 of the conditioning is the text embeddings' own under it.
    """

    function: Callable[[torch.Tensor, Target], torch.Tensor]
    needs_statistics: bool = False
    keeps_first: bool = False


def unchanged(vl: torch.Tensor, target: Target) -> torch.Tensor:
    return vl


def by_one_factor(vl: torch.Tensor, target: Target) -> torch.Tensor:
    """V · (s / std(V)), s the reference std of all values."""
    return vl * (target.required.global_std / std(vl).clamp_min(FLOOR))


def per_dimension(vl: torch.Tensor, target: Target) -> torch.Tensor:
    """The z-score of each dimension clipped to ±3, times the reference std, plus the reference mean."""
    z = (vl - vl.mean(dim=0)) / std(vl, 0).clamp_min(FLOOR)
    return z.clamp(-CLIP, CLIP) * target.required.per_dim_std.to(vl) + target.required.per_dim_mean.to(vl)


def half_of_each(vl: torch.Tensor, target: Target) -> torch.Tensor:
    """Half `by_one_factor`, half `per_dimension`."""
    return 0.5 * by_one_factor(vl, target) + 0.5 * per_dimension(vl, target)


def without_the_sink(vl: torch.Tensor, target: Target) -> torch.Tensor:
    """As `sink_aware`."""
    if target.text is None:
        raise ValueError("sink_aware needs the text embeddings")
    return sink_aware(vl, target.text, target.holds_first)


NORMALIZATIONS: dict[str, Normalization] = {
    "none": Normalization(unchanged),
    "global": Normalization(by_one_factor, needs_statistics=True),
    "per_dim": Normalization(per_dimension, needs_statistics=True),
    "hybrid": Normalization(half_of_each, needs_statistics=True),
    "sink_aware": Normalization(without_the_sink, keeps_first=True),
}


def normalize(vl: torch.Tensor, mode: str, target: Target) -> torch.Tensor:
    """Normalize hidden states [m, hidden] by the member of NORMALIZATIONS called `mode`; the shape stays.

    Raises:
        ValueError: there is no such mode, or the target lacks what it needs.
    """
    return member(NORMALIZATIONS, mode, "normalization").function(vl, target)


def sink_aware(vl: torch.Tensor, text: torch.Tensor, holds_first: bool) -> torch.Tensor:
    """Scale hidden states so that the median row has the text embeddings' size, position 0 left out on both sides.

    Args:
        vl: float [m, hidden].
        text: float [n, hidden].
        holds_first: Whether row 0 of `vl` is position 0 of the sequence.

    Returns:
        vl · median row RMS of text[1:] / median row RMS of vl without its position 0. No reference statistics are
        needed.
    """
    ordinary = vl[1:] if holds_first else vl
    if ordinary.shape[0] == 0 or text.shape[0] < 2:
        return vl
    return vl * (_median(_row_rms(text[1:])) / _median(_row_rms(ordinary)).clamp_min(FLOOR))


def _row_rms(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().mean(dim=1).sqrt()


def _median(values: torch.Tensor) -> torch.Tensor:
    """The usual median; torch's own takes the lower of the two middle values."""
    return values.quantile(0.5)


def _to_nothing(ratio: torch.Tensor, threshold: float) -> torch.Tensor:
    return torch.zeros_like(ratio)


def _to_the_threshold(ratio: torch.Tensor, threshold: float) -> torch.Tensor:
    return ratio.clamp(1 / threshold, threshold) / ratio


def _to_the_text_encoder(ratio: torch.Tensor, threshold: float) -> torch.Tensor:
    return 1 / ratio


# From a dimension's std ratio to the text encoder's, and the threshold, to the factor that repairs the dimension.
OUTLIER_REPAIRS: dict[str, Callable[[torch.Tensor, float], torch.Tensor] | None] = {
    "none": None,
    "zero": _to_nothing,
    "clamp": _to_the_threshold,
    "scale": _to_the_text_encoder,
}

# From std ratios to how far each is out, in the direction that is asked about.
OUTLIER_DIRECTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "too large": lambda ratio: ratio,
    "too small": lambda ratio: 1 / ratio,
    "both": lambda ratio: torch.maximum(ratio, 1 / ratio),
}


def repair_outliers(
    vl: torch.Tensor,
    mode: str,
    threshold: float,
    reference: ReferenceStatistics | None,
    direction: str = "both",
) -> tuple[torch.Tensor, int]:
    """Repair dimensions whose std is more than `threshold` times larger or smaller than the text encoder's.

    Args:
        vl: float [m, hidden].
        mode: `none`; `zero` sets the dimension to 0; `clamp` scales it so that its std ratio is the threshold (or one
            over it); `scale` scales it so that the ratio is 1.

    Returns:
        The tensor, and the number of dimensions that were repaired.
    """
    repair = member(OUTLIER_REPAIRS, mode, "outlier repair")
    if repair is None:
        return vl, 0
    spread = std(vl, 0)
    ratio = spread.clamp_min(FLOOR) / Target(reference).required.per_dim_std.to(vl).clamp_min(FLOOR)
    outlier = member(OUTLIER_DIRECTIONS, direction, "outlier direction")(ratio) > threshold
    factor = repair(ratio, threshold)
    outlier &= (spread > FLOOR) | (factor == 0)  # a constant dimension has nothing to scale
    return vl * torch.where(outlier, factor, torch.ones_like(factor)), int(outlier.sum())
