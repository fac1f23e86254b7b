"""An analysis as JSON can write it: all of it but the spreads of each dimension."""

from __future__ import annotations

import math
from typing import Any

from ..attention_shares import PROMPT, AttentionShares
from ..mixing.statistics import Comparison
from .layers import EncoderStatistics, Layer
from .measuring import Against, Analysis, Kind


def data_of(found: Analysis) -> dict[str, Any]:
    """Plain data; what is not finite is None."""
    data: dict[str, Any] = _finite(
        {
            "about": found.about,
            "text_encoder": {"layers": found.reads, "prompts": found.prompts, **_layer(found.reference)},
            "rows": [_kind(kind) for kind in (found.prompt, *found.kinds)],
            "layers": [
                {
                    "layer": each.layer,
                    "text_encoder": None if each.encoder is None else _layer(each.encoder),
                    **{name: _against(kind) for name, kind in each.kinds.items()},
                }
                for each in found.layers
            ],
            "alpha": found.alpha,
            "normalization": found.normalization,
            "attention": None if found.shares is None else attention_of(found.shares),
            "note": found.note,
        }
    )
    return data


def encoder_data(found: EncoderStatistics) -> dict[str, Any]:
    """A text encoder's layers, from the first; each by its number from the end."""
    count = len(found.layers)
    layers = [{"layer": i - count, **_layer(layer)} for i, layer in enumerate(found.layers)]
    data: dict[str, Any] = _finite({"prompts": found.prompts, "layers": layers})
    return data


def attention_of(shares: AttentionShares) -> dict[str, Any]:
    """Shares by block and step: of the prompt's own rows, and of each reference's."""
    names = {PROMPT: "prompt"} | {n: f"reference {n}" for n in range(1, shares.references + 1)}
    return {name: shares.of(group) for group, name in names.items()}


def _layer(layer: Layer) -> dict[str, float]:
    return {
        "std": layer.whole.global_std,
        "std_without_position_0": layer.ordinary.global_std,
        "norm_of_position_0": layer.first,
        "norm_of_others": layer.others,
    }


def _kind(kind: Kind) -> dict[str, Any]:
    return {
        "name": kind.name,
        "with_position_0": _against(kind.whole),
        "without_position_0": _against(kind.ordinary),
        "norms": kind.norms,
        "positions": kind.positions,
        "shares": kind.shares,
    }


def _against(found: Against) -> dict[str, Any]:
    numbers: Comparison | dict[str, Any] = found.numbers or {}
    return {
        "tokens": found.tokens,
        "std": found.std,
        **{key: numbers.get(key) for key in ("correlation", "median_ratio", "worst_ratio", "outliers")},
        "worst": [each._asdict() | {"direction": each.direction} for each in found.worst],
    }


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
