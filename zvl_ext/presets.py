"""Known combinations of settings, as plain data.

A preset names every control it is about, so that choosing it after another one leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

CUSTOM = "Custom"  # the name of everything else


@dataclass(frozen=True)
class Preset:
    """One combination.

    Attributes:
        values: By the options' names.
        about: What it is for and what to expect, in one sentence for the user.
    """

    values: dict[str, Any] = field(repr=False)
    about: str


# The recommendations of the published findings, for text and for image positions.
_RESEARCH: dict[str, Any] = {
    "engine": "blend",
    "alpha": 0.3,
    "hidden_layer": -8,
    "layer_mix": "",
    "image_layers": "",
    "token_mode": "text",
    "scale_to_text": True,
    "normalization": "global",
    "outlier_repair": "none",
    "length_match": "interpolate",
    "blend_mode": "linear",
    "image_dropout": 0.0,
    "reference_tokens": 256,
    "positions": "sequential",
    "weight": 1.0,
    "start": 0.0,
    "end": 1.0,
    "curve": "constant",
    "blocks": "all",
    "merge": 1,
    "proportional": False,
    "block_place": "behind head",
    "outlier_direction": "too large",
}
# Those of Somepalli & Somepalli, "Latent Scaffolding" (2026): dropout for variety, the layer for abstraction.
_SPLICE = _RESEARCH | {
    "engine": "splice",
    "alpha": 1.0,
    "hidden_layer": -2,
    "token_mode": "all",
    "normalization": "sink_aware",
    "length_match": "insert",
    "reference_tokens": 576,
}
# Of our own, by the evidence: inserted rows with a weight, merged so that sampling hardly gets slower.
_WEIGHTED = _SPLICE | {"weight": 0.6, "merge": 2, "proportional": True, "block_place": "front"}

_PRESETS = {
    "Balanced": Preset(
        _WEIGHTED,
        "The prompt decides what it names, the reference fills in the rest. Start here and move Weight.",
    ),
    "Fill in": Preset(
        _WEIGHTED | {"weight": 0.25, "curve": "ease out", "merge": 1, "reference_tokens": 256},
        "What the prompt names stays; the reference gives the colours, style and background that it leaves open.",
    ),
    "Close variation": Preset(
        _WEIGHTED | {"weight": 1.0, "merge": 1},
        "The picture comes close to the reference; the prompt changes little.",
    ),
    "Research default": Preset(
        _RESEARCH,
        "As first published, for comparison: expect hardly any effect. Its author has since withdrawn it.",
    ),
    "Research, all tokens": Preset(
        _RESEARCH | {"token_mode": "all", "hidden_layer": -6, "alpha": 0.4},
        "The same author's later settings: the image's tokens are blended in as well; visible, with artifacts.",
    ),
    "Research image tokens": Preset(
        _RESEARCH | {"token_mode": "image", "normalization": "per_dim"},
        "As published for the image's tokens alone: style and colours, with artifacts; the prompt suffers.",
    ),
    "Image tokens, sink-aware": Preset(
        _RESEARCH | {"token_mode": "image", "normalization": "sink_aware"},
        "The image's tokens at their own size, so that alpha means what it says. Raise Alpha to 0.5 to see more.",
    ),
    "Splice: faithful": Preset(_SPLICE, "As published: the reference at full strength, close to it."),
    "Splice: variation": Preset(
        _SPLICE | {"image_dropout": 0.75},
        "As published: a quarter of the reference's tokens at random, by the picture's seed; the subject stays.",
    ),
    "Splice: creative": Preset(
        _SPLICE | {"hidden_layer": -12, "image_dropout": 0.85}, "As published: fewer tokens, more abstract; looser."
    ),
    "Splice: gist": Preset(
        _SPLICE | {"image_dropout": 0.95}, "As published: one token in twenty; the general idea of the reference."
    ),
}
PRESETS: dict[str, dict[str, Any]] = {name: preset.values for name, preset in _PRESETS.items()}
ABOUT: dict[str, str] = {name: preset.about for name, preset in _PRESETS.items()}

START = "Balanced"  # what a fresh panel has, and a request that names nothing else
