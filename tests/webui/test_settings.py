"""The page in the web UI's settings, and what is read from it."""

from __future__ import annotations

from typing import Any

import hosts
import pytest
from modules import script_callbacks, shared

from zvl_ext.webui import settings

DECLARED = {setting.name: setting for setting in settings.SETTINGS}
LIMITS = {
    "zvl_memory": settings.memory_limit,
    "zvl_disk": settings.disk_limit,
    "zvl_references": settings.references_limit,
}
SWITCHES = DECLARED.keys() - LIMITS.keys()
MIB = 2**20


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the web UI knows of settings, without ours; a test's own."""
    kept = {name: info for name, info in shared.opts.data_labels.items() if name not in DECLARED}
    monkeypatch.setattr(shared.opts, "data_labels", kept)
    for name in DECLARED:
        monkeypatch.delitem(shared.opts.data, name, raising=False)
    return kept


def load() -> None:
    """Load the scripts and build the settings page, as at a start of the web UI and at every "Reload UI"."""
    script_callbacks.clear_callbacks()
    hosts.load_scripts()
    script_callbacks.ui_settings_callback()


def test_the_page_has_all_controls_with_range_and_help(labels: dict[str, Any]) -> None:
    gr = pytest.importorskip("gradio")
    load()
    assert list(labels)[-len(DECLARED) :] == list(DECLARED)
    ranges = {
        "zvl_memory": (64, 16384, 64, 1024),
        "zvl_disk": (0, 65536, 256, 0),
        "zvl_references": (0, 16384, 64, 256),
    }
    assert ranges.keys() == LIMITS.keys()
    for name, (low, high, step, default) in ranges.items():
        info = labels[name]
        assert (info.component, info.component_args) == (gr.Slider, {"minimum": low, "maximum": high, "step": step})
        assert info.default == default
        assert shared.opts.data[name] == default
        assert info.section == ("zvl", "Z-Image VL")
        assert info.label == DECLARED[name].label
        assert DECLARED[name].help in info.comment_after
        assert "<" not in info.label + DECLARED[name].help, "the page shows HTML"
    assert "data folder" in labels["zvl_disk"].comment_after
    for name in SWITCHES:
        assert (labels[name].component, labels[name].default) == (gr.Checkbox, DECLARED[name].default)
        assert DECLARED[name].help in labels[name].comment_after


def test_reloading_the_ui_makes_no_doubles_and_keeps_what_the_user_chose(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    load()
    monkeypatch.setitem(shared.opts.data, "zvl_memory", 2048)
    once = list(labels)
    load()
    assert list(labels) == once
    assert labels["zvl_disk"].comment_after.count("off") == 1
    assert settings.memory_limit() == 2048 * MIB


def test_the_webuis_own_settings_page_takes_them(labels: dict[str, Any]) -> None:
    """The slider is made as the web UI makes it: from the component, its arguments and the value."""
    pytest.importorskip("gradio")
    load()
    for name, info in labels.items():
        if name in SWITCHES:
            assert info.component(label=info.label, value=shared.opts.data[name], **info.component_args).value is True
        elif name in DECLARED:
            slider = info.component(
                label=info.label, value=shared.opts.data[name], elem_id=f"setting_{name}", **info.component_args
            )
            assert (slider.minimum, slider.maximum, slider.value) == (
                DECLARED[name].minimum,
                DECLARED[name].maximum,
                DECLARED[name].default,
            )


def test_a_web_ui_without_settings_of_extensions_does_without(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    script_callbacks.clear_callbacks()
    monkeypatch.delattr(script_callbacks, "on_ui_settings")
    settings.forge.on_ui_settings(settings.register)
    assert not labels.keys() & DECLARED.keys()


# --- reading


def test_without_a_page_the_defaults_are_read(labels: dict[str, Any]) -> None:
    assert settings.memory_limit() == 1024 * MIB
    assert settings.disk_limit() == 0
    assert settings.references_limit() == 256 * MIB


@pytest.mark.parametrize("name", LIMITS)
def test_what_the_user_chose_is_read_in_bytes(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    setting = DECLARED[name]
    for chosen in (setting.minimum, setting.minimum + setting.step, float(setting.maximum), setting.minimum + 0.5):
        monkeypatch.setitem(shared.opts.data, name, chosen)
        assert LIMITS[name]() == chosen * MIB
        assert isinstance(LIMITS[name](), int)


@pytest.mark.parametrize(
    "value", [None, "", "2048", "much", True, [2048], {"a": 1}, -1, 10**6, float("nan"), float("inf"), -float("inf")]
)
@pytest.mark.parametrize("name", LIMITS)
def test_anything_but_a_number_within_the_range_is_the_default(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setitem(shared.opts.data, name, value)
    assert LIMITS[name]() == DECLARED[name].default * MIB


@pytest.mark.parametrize("value", [None, "", "False", 0, 1, [True], False, True])
@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_anything_but_true_or_false_is_the_default(
    labels: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setitem(shared.opts.data, name, value)
    assert DECLARED[name].value is (value if isinstance(value, bool) else DECLARED[name].default)


def test_the_names_are_the_extensions_own() -> None:
    assert all(name.startswith("zvl_") for name in DECLARED)
    for setting in (DECLARED[name] for name in LIMITS):
        assert setting.minimum <= setting.default <= setting.maximum
        assert (setting.default - setting.minimum) % setting.step == 0
