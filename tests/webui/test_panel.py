"""The accordion: what it shows, and what its buttons and presets do."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
from host_fixtures import WebUI
from panel_fixtures import TITLE, Built, elem_id

from zvl_ext.declaration import FILES
from zvl_ext.effects import idle
from zvl_ext.options import BY_NAME, CUSTOM, OPTIONS, UNIT_OPTIONS, UNITS, Settings
from zvl_ext.presets import ABOUT, PRESETS
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "panel_fixtures"]

FIRST_TAB = "Reference 1"


# --- what it shows


def test_the_components_are_the_options_in_order(built: Built) -> None:
    assert len(built.components) == len(OPTIONS)
    for option, component in zip(OPTIONS, built.components):
        assert component.label == (TITLE if option.name == "enabled" else option.label)
        assert elem_id(option.name) in (component.elem_id or "")


def test_the_defaults_are_the_options_defaults(built: Built) -> None:
    for option, component in zip(OPTIONS, built.components):
        if option.kind == "model":
            assert component.value == "tiny-vl", "the first model found"
        else:
            assert component.value == option.default, option.name
            assert type(component.value) is type(option.default)


def test_a_fresh_panels_values_are_the_default_settings(built: Built) -> None:
    settings = Settings.from_positions([component.value for component in built.components])
    assert settings == Settings(model="tiny-vl")


def test_kinds_ranges_and_choices(built: Built) -> None:
    for option, component in zip(OPTIONS, built.components):
        if option.kind in ("number", "integer"):
            assert (component.minimum, component.maximum, component.step) == (
                option.minimum,
                option.maximum,
                option.step,
            )
        elif option.kind == "choice":
            assert [value for _, value in component.choices] == list(option.choices)
        elif option.kind in ("image", "mask"):
            assert isinstance(component, gr.Image)
            assert component.get_block_name() == "image", "for the browser"
            assert "webcam" not in component.sources
        elif option.kind == "images":
            assert component.get_block_name() == "file"
            assert component.file_count == "multiple"


def test_labels_are_unique(built: Built) -> None:
    """The web UI keeps a user's defaults by label."""
    assert len(set(built.labels)) == len(built.labels)


def test_element_ids_are_unique(built: Built) -> None:
    ids = [block.elem_id for block in built.page.blocks.values() if block.elem_id]
    assert len(set(ids)) == len(ids)


def test_every_option_says_what_it_is_for(built: Built) -> None:
    (tips,) = re.findall("data-zvl-tips='([^']*)'", built.html())
    tips = json.loads(html.unescape(tips))
    assert len(tips) == len(OPTIONS)
    for option, component in zip(OPTIONS, built.components):
        assert tips[elem_id(option.name)] == option.help, "as a tooltip"
        if option.kind not in ("image", "images", "mask") and option.name != "enabled":
            assert component.info == (option.hint or None)


def test_the_page_is_plain_data(built: Built) -> None:
    config = built.page.get_config_file()
    for component in config["components"]:
        component["props"].pop("delete_callback", None)  # gradio's own, of a state
    json.dumps(config)
    shown = {component["props"].get("label") for component in config["components"]}
    assert set(built.labels) <= shown


def test_several_panels_stand_side_by_side(web: WebUI) -> None:
    """Two tabs, and the web UI builds each of them more than once to learn the defaults."""
    first, second = Built(), Built()
    assert first.labels == second.labels


# --- where it stands


def within(built: Built, name: str) -> list[Any]:
    """The blocks that a control stands in, from the inside out."""
    found, block = [], built.controls[name]
    while (block := getattr(block, "parent", None)) is not None:
        found.append(block)
    return found


def folded(built: Built, name: str) -> bool:
    return any(getattr(block, "label", None) in ("More", "Where and when") for block in within(built, name))


def tab_of(built: Built, name: str) -> str | None:
    """The tab that a control stands in."""
    return next((block.label for block in within(built, name) if isinstance(block, gr.Tab)), None)


def test_in_sight_are_the_reference_the_preset_the_strength_and_one_compact_row(built: Built) -> None:
    in_sight = [o.name for o in OPTIONS if not folded(built, o.name) and tab_of(built, o.name) in (None, FIRST_TAB)]
    row = ["hidden_layer", "token_mode", "normalization"]
    assert sorted(in_sight) == sorted(["enabled", "reference", "preset", "weight", "alpha", *row])
    for name in in_sight:
        compact = any("zvl-compact" in (getattr(block, "elem_classes", None) or []) for block in within(built, name))
        assert compact == (name in row), name
    folds = [b for b in built.page.blocks.values() if isinstance(b, gr.Accordion) and b.label != TITLE]
    assert sorted(b.label for b in folds) == ["How to describe", "More", *["Where and when"] * UNITS]
    assert not any(b.open for b in folds)


def test_every_reference_has_its_controls_in_its_own_tab(built: Built) -> None:
    for option in OPTIONS:
        tab = "Batch" if option.kind == "images" else f"Reference {option.unit}" if option.unit else None
        assert tab_of(built, option.name) == tab
        if option.unit:
            assert folded(built, option.name) == (option.first not in ("reference", "weight"))


def test_two_controls_for_one_thing_are_one_in_the_panel(built: Built) -> None:
    """Scale to text off is normalization none. Its component is there, because the API's values go by position."""
    hidden = [name for name, control in built.controls.items() if not control.visible and name != "enabled"]
    assert hidden == ["scale_to_text"]


def test_the_preset_says_what_it_is_for(built: Built) -> None:
    assert ABOUT["Balanced"] in html.unescape(built.html())
    (event,) = [e for e in built.events(built.controls["preset"], "change") if len(e.outputs) == 1]
    for name, about in ABOUT.items():
        assert about in html.unescape(event.fn(name))
    assert "Settings of your own." in event.fn(CUSTOM)


# --- what has no part in the picture


def names(built: Built, components: list) -> list[str]:
    return [next(n for n, control in built.controls.items() if control is component) for component in components]


def effects_of(built: Built, name: str) -> list[tuple[list[str], list[str], Any]]:
    """What changes of a control grey: the controls that are looked at, those that are changed, and the function."""
    return [
        (names(built, event.inputs), names(built, event.outputs), event.fn)
        for event in built.events(built.controls[name], "change")
        if len(event.inputs) > 12
        and all(output in built.components for output in event.outputs)
        and built.controls["preset"] not in event.outputs
    ]


def test_in_a_fresh_panel_what_has_no_part_can_not_be_moved(built: Built) -> None:
    silent = idle(Settings())
    assert {"storage", "outlier_threshold"} <= silent.keys()
    for name, control in built.controls.items():
        if name not in ("enabled", "combine"):
            assert control.interactive == (name not in silent), name


@pytest.mark.parametrize("preset", PRESETS)
def test_a_change_greys_what_has_no_part_then_and_frees_the_rest(built: Built, preset: str) -> None:
    settings = Settings.from_mapping({"preset": preset})
    silent = idle(settings)
    ((inputs, outputs, effects),) = effects_of(built, "token_mode")
    updates = dict(zip(outputs, effects(*[getattr(settings, name) for name in inputs])))
    assert {name for name, update in updates.items() if not update["interactive"]} == silent.keys() - {"combine"}
    for name, update in updates.items():
        if BY_NAME[name].first == "weight":
            assert update["visible"] == (name not in silent)
        else:
            assert "visible" not in update
    assert all("value" not in update for update in updates.values()), "it keeps its value for when it acts again"


def other_values(option: Any) -> list[Any]:
    if option.kind == "switch":
        return [True, False]
    if option.kind in ("number", "integer"):
        return [option.minimum, option.maximum]
    return list(option.choices) or ["late", "left", "x"]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_control_that_decides_it_is_listened_to(built: Built, preset: str) -> None:
    """Whatever is changed: what is greyed by it is among what its event changes."""
    settings = Settings.from_mapping({"preset": preset})
    before = idle(settings).keys() - {"combine"}
    for option in OPTIONS:
        if option.kind in FILES or option.name in ("enabled", "preset"):
            continue
        for value in other_values(option):
            after = idle(dataclasses.replace(settings, **{option.name: value})).keys() - {"combine"}
            changed = {name for _, outputs, _ in effects_of(built, option.name) for name in outputs}
            assert before ^ after <= changed, option.name


def test_a_number_that_is_being_typed_greys_nothing(built: Built) -> None:
    ((inputs, outputs, effects),) = effects_of(built, "merge")
    updates = effects(*[None for _ in inputs])
    assert len(updates) == len(outputs)
    assert all("interactive" not in update for update in updates)
    ((_, outputs, effects),) = effects_of(built, "start_3")
    assert outputs == ["curve_3"]
    assert "interactive" not in effects(*[None for _ in inputs])


# --- no weights


def test_no_weights_say_what_to_get_and_where_to_put_it(web: WebUI) -> None:
    (web.weights / "tiny-vl").unlink()
    html = Built().html()
    for part in (
        "Qwen/Qwen3-VL-4B-Instruct",
        "8.9 GB",
        "mmproj-Qwen3VL-4B-Instruct-F16.gguf",
        "0.8 GB",
        "qwen3vl_4b_fp8_scaled.safetensors",
        "5.2 GB",
        str(web.weights),
    ):
        assert part in html
    assert Built().controls["model"].value is None


def test_with_weights_there_is_no_such_note(built: Built) -> None:
    assert "No Qwen3-VL weights" not in built.html()


def test_the_refresh_button_finds_what_has_come(web: WebUI, vl_folder: Any) -> None:
    (web.weights / "tiny-vl").unlink()
    built = Built()
    (web.weights / "new").symlink_to(vl_folder)
    (event,) = built.events(built.button("refresh"), "click")
    dropdown, note = event.fn(None)
    assert [choice if isinstance(choice, str) else choice[1] for choice in dropdown["choices"]] == ["new"]
    assert dropdown["value"] == "new"
    assert note == ""
    (web.weights / "other").symlink_to(vl_folder)
    assert event.fn("other")[0]["value"] == "other", "a choice that is still there is kept"
    assert event.fn("gone")[0]["value"] == "new"


def test_a_folders_name_is_text_and_not_html(web: WebUI, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import paths

    monkeypatch.setattr(paths, "models_path", str(tmp_path / "<b>bold"))
    html = Built().html()
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold" in html


# --- the buttons


def test_the_forget_button_drops_what_runs_have_kept_and_says_how_much(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(gr, "Info", said.append)
    monkeypatch.setattr(KEEPER, "forget", lambda: 5 * 2**20)
    button = built.button("forget")
    assert button.webui_tooltip == "Forget what is kept of references (memory and disk)"
    (event,) = built.events(button, "click")
    assert event.fn() is None
    assert said == ["Z-Image VL: what was kept of references is forgotten (5.0 MiB)."]


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_choosing_a_preset_sets_its_controls(built: Built, name: str) -> None:
    (event,) = built.events(built.controls["preset"], "input")
    updates = event.fn(name)
    assert len(updates) == len(event.outputs)
    set_to = {
        next(n for n, control in built.controls.items() if control is component): update["value"]
        for update, component in zip(updates, event.outputs)
    }
    wanted = Settings.from_mapping({"preset": name})
    assert set_to == {option: getattr(wanted, option) for option in set_to}
    of_each = [o.name for o in UNIT_OPTIONS if o.name in PRESETS[name]]
    assert set_to.keys() == {*PRESETS[name], *(f"{option}_{n}" for option in of_each for n in range(2, UNITS + 1))}


def test_choosing_custom_changes_nothing(built: Built) -> None:
    (event,) = built.events(built.controls["preset"], "input")
    assert all("value" not in update for update in event.fn(CUSTOM))


def test_changing_a_control_names_what_the_settings_amount_to(built: Built) -> None:
    values = PRESETS["Research default"]
    inputs = built.events(built.controls["alpha"], "change")[0].inputs
    order = [next(n for n, control in built.controls.items() if control is component) for component in inputs]
    for option in PRESETS["Research default"]:
        events = [e for e in built.events(built.controls[option], "change") if built.controls["preset"] in e.outputs]
        assert len(events) == 1, option
        assert events[0].fn(*[values[n] for n in order]) == "Research default"
    for preset, settings in PRESETS.items():
        assert events[0].fn(*[settings[n] for n in order]) == preset
    assert events[0].fn(*[0.31 if n == "alpha" else values[n] for n in order]) == CUSTOM
    assert events[0].fn(*[None for _ in order]) == CUSTOM
