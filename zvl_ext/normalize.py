"""Bringing Qwen3-VL's hidden states to the statistics of the text encoder. Pure functions on [tokens, hidden].

`global`, `per_dim` and `hybrid`, and the outlier repair before them, are the research's own definitions, over all rows.

`sink_aware` leaves position 0 out of every statistic. In these language models the first token carries massive activations
in two or three dimensions (the attention sink), which decide the standard deviation of a whole text sequence and which image
tokens do not have: scaling image tokens to such a figure makes them several times too large, and alpha 0.3 means 0.8.
"""

from __future__ import annotations

import torch

from .statistics import FLOOR, ReferenceStatistics, std

CLIP = 3.0  # standard deviations at which per_dim clips


def normalize(vl: torch.Tensor, mode: str, reference: ReferenceStatistics | None) -> torch.Tensor:
    """Normalize hidden states.

    Args:
        vl: float [m, hidden].
        mode: `none`; `global`, V · (s / std(V)); `per_dim`, the z-score of each dimension clipped to ±3, times the reference
            std, plus the reference mean; `hybrid`, half of each.
        reference: The text encoder's statistics; not needed for `none`.

    Returns:
        A tensor of the same shape.
    """
    if mode == "none":
        return vl
    if mode == "global":
        return vl * (reference.global_std / std(vl).clamp_min(FLOOR))
    if mode == "per_dim":
        z = (vl - vl.mean(dim=0)) / std(vl, 0).clamp_min(FLOOR)
        return z.clamp(-CLIP, CLIP) * reference.per_dim_std.to(vl) + reference.per_dim_mean.to(vl)
    if mode == "hybrid":
        return 0.5 * normalize(vl, "global", reference) + 0.5 * normalize(vl, "per_dim", reference)
    raise ValueError(f"unknown normalization {mode!r}")


def sink_aware(vl: torch.Tensor, text: torch.Tensor, holds_first: bool) -> torch.Tensor:
    """Scale hidden states so that the median row has the text embeddings' size, position 0 left out on both sides.

    Args:
        vl: float [m, hidden].
        text: float [n, hidden].
        holds_first: Whether row 0 of `vl` is position 0 of the sequence.

    Returns:
        vl · median row RMS of text[1:] / median row RMS of vl without its position 0. No reference statistics are needed.
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


def repair_outliers(vl: torch.Tensor, mode: str, threshold: float, reference: ReferenceStatistics | None) -> tuple[torch.Tensor, int]:
    """Repair dimensions whose std is more than `threshold` times larger or smaller than the text encoder's.

    Args:
        vl: float [m, hidden].
        mode: `none`; `zero` sets the dimension to 0; `clamp` scales it so that its std ratio is the threshold (or one over
            it); `scale` scales it so that the ratio is 1.

    Returns:
        The tensor, and the number of dimensions that were repaired.
    """
    if mode == "none":
        return vl, 0
    spread = std(vl, 0)
    ratio = spread.clamp_min(FLOOR) / reference.per_dim_std.to(vl).clamp_min(FLOOR)
    outlier = torch.maximum(ratio, 1 / ratio) > threshold
    if mode != "zero":
        outlier &= spread > FLOOR  # a constant dimension has nothing to scale
    if mode == "zero":
        factor = torch.zeros_like(ratio)
    elif mode == "clamp":
        factor = ratio.clamp(1 / threshold, threshold) / ratio
    elif mode == "scale":
        factor = 1 / ratio
    else:
        raise ValueError(f"unknown outlier repair {mode!r}")
    return vl * torch.where(outlier, factor, torch.ones_like(factor)), int(outlier.sum())
