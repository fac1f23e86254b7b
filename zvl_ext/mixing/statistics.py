"""Statistics of hidden states, and the reference statistics of a text encoder. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import torch

from ..errors import ZvlError

FLOOR = 1e-6  # smallest standard deviation that is divided by

# The prompts a text encoder's reference statistics are measured on: everyday captions of several kinds and lengths.
REFERENCE_PROMPTS = (
    "A photo of a cat",
    "A red apple on a wooden table, soft window light",
    "Portrait of an old fisherman with a grey beard, shallow depth of field",
    "A busy street in Tokyo at night, neon signs reflected in the wet asphalt, people with umbrellas",
    "Watercolor painting of a lighthouse on a cliff above a stormy sea",
    "Isometric 3D render of a tiny coffee shop, pastel colors, studio lighting",
    "An astronaut riding a horse through a field of sunflowers, cinematic wide shot, golden hour",
    "A minimal line drawing of a bicycle",
    "Macro photograph of a dragonfly covered in morning dew, dark green background, extremely detailed wings",
    "The interior of a gothic cathedral, sunbeams through stained glass, a single figure walking between the columns, "
    "dust in the air",
)


@dataclass(frozen=True)
class ReferenceStatistics:
    """What text embeddings of one text encoder look like.

    Attributes:
        per_dim_mean: float32 [hidden].
        per_dim_std: float32 [hidden], unbiased.
        global_std: Standard deviation of all values, unbiased.
    """

    per_dim_mean: torch.Tensor
    per_dim_std: torch.Tensor
    global_std: float


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


def measure(rows: torch.Tensor) -> ReferenceStatistics:
    """Reference statistics of text embeddings, [tokens of all prompts, hidden]; in float64, which no finite rows leave.

    Raises:
        ZvlError: the text embeddings have values that are not finite.
    """
    if not rows.isfinite().all():
        raise ZvlError(
            "The text encoder's reference statistics are not finite. Let the text encoder compute in bfloat16 or "
            "float32, or choose normalization sink_aware."
        )
    rows = rows.double()
    return ReferenceStatistics(rows.mean(dim=0).float(), std(rows, 0).float(), float(std(rows)))


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


def compare(text: torch.Tensor, vl: torch.Tensor, threshold: float = 10.0) -> Comparison:
    """Compare text and Qwen3-VL's hidden states, float [tokens, hidden] each, in the terms of the published
    findings."""
    text, vl = text.double(), vl.double()  # which the squares of no float32 leave
    text_std, vl_std = std(text, 0), std(vl, 0)
    ratio = vl_std.clamp_min(FLOOR) / text_std.clamp_min(FLOOR)
    distance = torch.maximum(ratio, 1 / ratio)
    worst = distance.topk(min(5, distance.numel())).indices.tolist()
    return {
        "text_tokens": text.shape[0],
        "vl_tokens": vl.shape[0],
        "text_std": float(std(text)),
        "vl_std": float(std(vl)),
        "correlation": _correlation(text_std, vl_std),
        "median_ratio": float(ratio.median()),
        "worst_ratio": float(distance.max()),
        "worst_dimensions": [[i, float(ratio[i])] for i in worst],
        "outliers": int((distance > threshold).sum()),
    }


def _correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of two rows of numbers; 0 where one of them does not vary."""
    if one.numel() < 2:
        return 0.0
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1].nan_to_num())
