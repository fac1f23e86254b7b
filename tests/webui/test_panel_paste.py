"""Pasting a picture's parameters into the panel."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

from host_fixtures import WebUI
from modules import infotext_utils
from panel_fixtures import Built

from zvl_ext.options import CUSTOM, OPTIONS

pytest_plugins = ["host_fixtures", "panel_fixtures"]

UNUSUAL = {
    "alpha": 0.55,
    "hidden_layer": -3,
    "token_mode": "all",
    "scale_to_text": False,
    "normalization": "per_dim",
    "outlier_repair": "clamp",
    "outlier_threshold": 2.5,
    "length_match": "truncate",
    "blend_mode": "slerp",
    "reference_tokens": 64,
    "vl_prompt": "a, b: c",
    "system_prompt": "512x512",
}


@pytest.fixture
def made(web: WebUI, picture: Any) -> dict[str, Any]:
    """The parameters of a picture in which nothing is a default."""
    p = web.run(web.p(), reference=picture, **UNUSUAL)
    pairs = ", ".join(f"{key}: {infotext_utils.quote(value)}" for key, value in p.extra_generation_params.items())
    return infotext_utils.parse_generation_parameters(
        f"a cat\nSteps: 8, Sampler: Euler, CFG scale: 1, {pairs}, Version: x"
    )


def test_pasting_sets_every_control(built: Built, made: dict[str, Any], picture: Any) -> None:
    values = built.pasted(made)
    assert values.pop("reference").tobytes() == picture.tobytes()
    expected = {"enabled": True, "model": "tiny-vl", "preset": CUSTOM, **UNUSUAL}
    assert expected.items() <= values.items()
    untouched = {o.name for o in OPTIONS} - set(values) - {"reference"}
    assert untouched <= {o.name for o in OPTIONS if not o.infotext}


def test_pasting_defaults_sets_every_control_back(built: Built, web: WebUI, picture: Any) -> None:
    p = web.run(web.p(), reference=picture)
    values = built.pasted({key: str(value) for key, value in p.extra_generation_params.items()})
    for option in OPTIONS:
        if option.infotext and option.kind not in ("image", "model"):
            assert values[option.name] == option.default


def test_pasting_another_picture_switches_off_and_touches_nothing_else(built: Built) -> None:
    assert built.pasted({"Prompt": "a cat", "Steps": "8"}) == {"enabled": False}


def test_pasting_what_is_not_here_any_more(built: Built, made: dict[str, Any]) -> None:
    values = built.pasted({**made, "ZVL model": "another", "ZVL reference": "0123456789ab", "ZVL alpha": "much"})
    assert not values.keys() & {"model", "reference", "alpha"}
    assert values["enabled"] is True


def test_the_webuis_own_paste_understands_the_fields(built: Built, made: dict[str, Any]) -> None:
    for field in built.fields:
        assert isinstance(field, infotext_utils.PasteField)
        assert field.function is not None or field.label is not None
