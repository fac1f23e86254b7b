"""The panel's line about a text encoder that is not needed."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

from published import research

from zvl_ext.options import Settings
from zvl_ext.webui import panel_alone
from zvl_ext.webui.host import WebUI

pytest_plugins = ["host_fixtures", "panel_fixtures"]


class Host(WebUI):
    def __init__(self, size: int):
        self.size = size

    def text_encoder_bytes(self) -> int:
        return self.size


def line(size: int = 0, **named: Any) -> str:
    settings = research(**{"alpha": 1.0, "scale_to_text": False, **named})
    return panel_alone.line(Host(size), *(getattr(settings, name) for name in panel_alone.OPTIONS))


def test_what_is_spared_is_said_with_its_size() -> None:
    assert "neither loaded nor run" in line()
    assert "its 7.5 GiB stay free" in line(int(7.5 * 2**30))
    assert "GiB" not in line()


@pytest.mark.parametrize(
    "needs",
    [
        {"alpha": 0.9},
        {"scale_to_text": True},
        {"reference": "x", "reference_2": "y"},
        {"reference": "x", "negative": True},
        {"engine": "splice"},
        {"blend_mode": "adain"},
    ],
)
def test_where_it_is_needed_nothing_is_said(needs: dict) -> None:
    assert line(**needs) == ""


def test_a_fresh_panel_and_a_number_that_is_being_typed_say_nothing() -> None:
    values = {name: getattr(Settings(), name) for name in panel_alone.OPTIONS}
    assert panel_alone.line(Host(0), *values.values()) == ""
    assert panel_alone.line(Host(0), *(values | {"alpha": None}).values()) == ""


def test_the_web_ui_knows_its_text_encoders_size(web: Any) -> None:
    encoder = web.engine.forge_objects.clip.cond_stage_model
    assert WebUI().text_encoder_bytes() == sum(tensor.nbytes for tensor in encoder.state_dict().values()) > 0


def test_without_a_checkpoint_nobody_knows(web: Any) -> None:
    web.use(object())
    assert WebUI().text_encoder_bytes() == 0


def test_the_line_follows_the_controls(built: Any) -> None:
    events = built.events(built.controls["alpha"], "change")
    assert any(getattr(event.fn, "func", None) is panel_alone.line for event in events)
