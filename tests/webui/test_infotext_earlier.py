"""Parameters of earlier versions' pictures are read as these versions made them."""

from __future__ import annotations

import hosts  # noqa: F401  enters the web UI
import pytest
from host_fixtures import WebUI
from infotexts import WRITTEN
from modules import infotext_utils

from zvl_ext.options import BY_NAME
from zvl_ext.webui import infotext

pytest_plugins = ["host_fixtures"]


FIRST_DEFAULTS = {
    "engine": "blend",
    "alpha": 0.3,
    "hidden_layer": -8,
    "token_mode": "text",
    "scale_to_text": True,
    "normalization": "global",
    "outlier_repair": "none",
    "outlier_threshold": 10.0,
    "length_match": "interpolate",
    "blend_mode": "linear",
    "image_dropout": 0.0,
    "reference_tokens": 256,
    "vl_prompt": "{prompt}",
    "system_prompt": "",
    "positions": "sequential",
    "storage": "auto",
    # What there was no control for, as it was.
    "weight": 1.0,
    "start": 0.0,
    "end": 1.0,
    "curve": "constant",
    "blocks": "all",
    "merge": 1,
    "proportional": False,
    "block_place": "behind head",
    "outlier_direction": "both",
    # What came with several references.
    "combine": "each alone",
    "crop": "whole",
    "region": "all",
    "negative": False,
    "denoising_strength": 1.0,
    # What came with several layers.
    "layer_mix": "",
    "image_layers": "",
}
FIRST_SPLICE = {
    "engine": "splice",
    "alpha": 1.0,
    "hidden_layer": -2,
    "token_mode": "all",
    "normalization": "sink_aware",
    "length_match": "insert",
    "image_dropout": 0.75,
    "reference_tokens": 576,
}
HEAD = "a cat\nSteps: 8, Sampler: Euler, CFG scale: 1, Seed: 1, Size: 64x64, "
OF_0_1 = {
    "ZVL: 0.1.0, ZVL reference: 0123456789ab, ZVL model: x": {},
    "ZVL: 0.1.0, ZVL engine: splice, ZVL reference: 0123456789ab, ZVL model: x, ZVL alpha: 1, ZVL layer: -2, "
    "ZVL tokens: all, ZVL norm: sink_aware, ZVL length: insert, ZVL dropout: 0.75, ZVL size: 576": FIRST_SPLICE,
    "ZVL: 0.1.0, ZVL reference: 0123456789ab, ZVL model: x, ZVL tokens: image, ZVL scale: False, ZVL norm: per_dim, "
    "ZVL outliers: zero, ZVL outlier threshold: 2.5": {
        "token_mode": "image",
        "normalization": "none",  # what "scale: False" was
        "outlier_repair": "zero",
        "outlier_threshold": 2.5,
    },
}


@pytest.mark.parametrize("text", OF_0_1)
def test_a_picture_of_version_0_1_is_pasted_as_it_was_made(web: WebUI, text: str) -> None:
    parameters = infotext_utils.parse_generation_parameters(HEAD + text + ", Version: x")
    got = {option.name: infotext.read(option, parameters) for option in WRITTEN}
    assert got == FIRST_DEFAULTS | OF_0_1[text]
    assert infotext.read(BY_NAME["model"], parameters) == "x"


@pytest.mark.parametrize("version", ["0.2.0", "0.10.0", "1.0.0"])
def test_later_pictures_name_what_differs_from_a_fixed_table(web: WebUI, version: str) -> None:
    """Which is not that of version 0.1 for what version 0.1 had no control for."""
    parameters = infotext_utils.parse_generation_parameters(f"{HEAD}ZVL: {version}, ZVL model: x, Version: x")
    got = {option.name: infotext.read(option, parameters) for option in WRITTEN}
    later = {"proportional": True, "block_place": "front", "outlier_direction": "too large"}
    assert got == FIRST_DEFAULTS | later
