"""The panel's references: what the buttons below their tabs do."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
import tiny
from panel_fixtures import Built

from zvl_ext.options import BY_NAME, OPTIONS, UNIT_OPTIONS, UNITS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.webui import page_look, panel

pytest_plugins = ["host_fixtures", "panel_fixtures"]


def names(built: Built, components: list) -> list[str]:
    return [next(n for n, control in built.controls.items() if control is component) for component in components]


def test_swap_exchanges_two_references_with_all_that_is_theirs(built: Built) -> None:
    (event,) = built.events(built.button("swap"), "click")
    inputs, outputs = names(built, event.inputs), names(built, event.outputs)
    values = {name: f"{name}'s" for name in inputs}
    after = dict(zip(outputs, event.fn(*values.values())))
    own = [option.name for option in UNIT_OPTIONS]
    assert after == {**{n: f"{n}_2's" for n in own}, **{f"{n}_2": f"{n}'s" for n in own}}
    assert dict(zip(outputs, event.fn(*after.values()))) == values


@pytest.mark.parametrize("preset", [*PRESETS, "Custom"])
def test_clear_leaves_a_fresh_panel_with_the_chosen_preset(built: Built, preset: str) -> None:
    (event,) = built.events(built.button("clear"), "click")
    outputs = names(built, event.outputs)
    assert outputs == [option.name for option in OPTIONS if option.unit or option.name == "reference_batch"]
    after = {name: update["value"] for name, update in zip(outputs, event.fn(preset))}
    wanted = Settings.from_mapping({"preset": preset} if preset in PRESETS else {})
    for name, value in after.items():
        assert value == getattr(wanted, BY_NAME[name].first), name


def shown(built: Built, said: list[str], monkeypatch: pytest.MonkeyPatch, **values: Any) -> dict:
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(gr, kind, said.append)
    (event,) = built.events(built.button("see"), "click")
    components = {id(control): name for name, control in built.controls.items()}
    given = {**{name: control.value for name, control in built.controls.items()}, **values}
    size = [component.value for component in event.inputs if id(component) not in components]
    assert size == [1024, 1024]
    return event.fn(*size, *[given[name] for name in names(built, event.inputs[2:])])


def test_the_preview_shows_every_reference_and_its_tokens(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    first, second = tiny.picture(64, 128, seed=1), tiny.picture(64, 64, seed=2)
    gallery = shown(built, said, monkeypatch, reference=first, reference_2=second, merge=1,
                    reference_mask_2=tiny.picture(8, 8, seed=3).point(lambda value: 255))  # fmt: skip
    assert gallery["visible"]
    assert [words for _, words in gallery["value"]] == ["Reference 1: 8 tokens", "Reference 2: 4 tokens"]
    assert [image.tobytes() for image, _ in gallery["value"]] == [first.tobytes(), second.tobytes()]
    assert said == []


def test_a_preview_of_nothing_and_of_what_is_no_picture_says_so(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert not shown(built, said, monkeypatch)["visible"]
    assert said.pop() == "Z-Image VL: there is no reference to show."
    assert not shown(built, said, monkeypatch, reference_4="no picture")["visible"]
    assert said.pop().startswith("Z-Image VL: Reference 4: Reference image: ")


def test_the_pages_script_finds_the_tabs_and_its_buttons(built: Built) -> None:
    painted = (f"paint_{name}_{n}" for name in ("reference_mask", "region_mask") for n in range(1, UNITS + 1))
    tabs = (f"unit_{tab}" for tab in (*range(1, UNITS + 1), "batch"))
    for name in ("units", "use_result", "use_img2img", "reference_batch", *tabs, *painted):
        assert built.button(name)
    assert all(f"window.zvl.{name}" in page_look.head() for name in ("put(", "img2imgPicture(")), "of one another"


def test_more_references_are_more_tokens(built: Built) -> None:
    (event,) = [e for e in built.events(built.controls["reference_3"], "change") if e.fn is panel._cost]
    inputs = names(built, event.inputs)
    assert "146 tokens" in event.fn(*[getattr(Settings(), name) for name in inputs])
    three = Settings.from_mapping(dict.fromkeys(("reference", "reference_2", "reference_3"), object()))
    assert f"{3 * 146} tokens" in event.fn(*[getattr(three, name) for name in inputs])
