"""Known combinations of settings, as plain data."""

from __future__ import annotations

from typing import Any

CUSTOM = "Custom"  # the name of everything else

# Known combinations. A preset names every control it is about, so that choosing it after another one leaves nothing
# behind. The first two are the recommendations of the published findings, for text and for image positions; the splice
# presets are those of Somepalli & Somepalli, "Latent Scaffolding" (2026): dropout for variety, the layer for
# abstraction.
_RESEARCH = {
    "engine": "blend",
    "alpha": 0.3,
    "hidden_layer": -8,
    "token_mode": "text",
    "scale_to_text": True,
    "normalization": "global",
    "outlier_repair": "none",
    "length_match": "interpolate",
    "blend_mode": "linear",
    "image_dropout": 0.0,
    "reference_tokens": 256,
}
_SPLICE = _RESEARCH | {
    "engine": "splice",
    "alpha": 1.0,
    "hidden_layer": -2,
    "token_mode": "all",
    "normalization": "sink_aware",
    "length_match": "insert",
    "reference_tokens": 576,
}
PRESETS: dict[str, dict[str, Any]] = {
    "Research default": _RESEARCH,
    "Research image tokens": _RESEARCH | {"token_mode": "image", "normalization": "per_dim"},
    "Image tokens, sink-aware": _RESEARCH | {"token_mode": "image", "normalization": "sink_aware"},
    "Splice: faithful": _SPLICE,
    "Splice: variation": _SPLICE | {"image_dropout": 0.75},
    "Splice: creative": _SPLICE | {"hidden_layer": -12, "image_dropout": 0.85},
    "Splice: gist": _SPLICE | {"image_dropout": 0.95},
}
