"""Presets: what each one sets, value by value, and that choosing one leaves nothing of another behind."""

import dataclasses
import itertools

import pytest

from zvl_ext.options import BY_NAME, CUSTOM, OPTIONS, Settings, preset_of
from zvl_ext.presets import ABOUT, PRESETS, START

RESEARCH = {
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
SPLICE = {
    "engine": "splice",
    "alpha": 1.0,
    "hidden_layer": -2,
    "layer_mix": "",
    "image_layers": "",
    "token_mode": "all",
    "scale_to_text": True,
    "normalization": "sink_aware",
    "outlier_repair": "none",
    "length_match": "insert",
    "blend_mode": "linear",
    "image_dropout": 0.0,
    "reference_tokens": 576,
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
WEIGHTED = {**SPLICE, "weight": 0.6, "merge": 2, "proportional": True, "block_place": "front"}
WANTED = {
    # Inserted rows with a weight of their own, merged, in front.
    "Balanced": WEIGHTED,
    # Strong at first, when the picture is laid out, and gone at the end: the prompt has the last word.
    "Fill in": {**WEIGHTED, "weight": 0.25, "curve": "ease out", "merge": 1, "reference_tokens": 256},
    "Close variation": {**WEIGHTED, "weight": 1.0, "merge": 1},
    # The published findings' recommendation for text positions: alpha 0.3, layer -8, scaled as a whole.
    "Research default": RESEARCH,
    # The same author's later settings.
    "Research, all tokens": {**RESEARCH, "token_mode": "all", "hidden_layer": -6, "alpha": 0.4},
    # And for image positions, whose dimensions differ from the text encoder's each in its own way.
    "Research image tokens": {**RESEARCH, "token_mode": "image", "normalization": "per_dim"},
    "Image tokens, sink-aware": {**RESEARCH, "token_mode": "image", "normalization": "sink_aware"},
    # The published splice: the whole sequence as it was read, dropout for variety, the layer for abstraction.
    "Splice: faithful": SPLICE,
    "Splice: variation": {**SPLICE, "image_dropout": 0.75},
    "Splice: creative": {**SPLICE, "hidden_layer": -12, "image_dropout": 0.85},
    "Splice: gist": {**SPLICE, "image_dropout": 0.95},
}
CONTROLS = list(RESEARCH)
CHANGED = {  # another value for a control; a preset that has it gets another choice
    "engine": "splice",
    "alpha": 0.55,
    "hidden_layer": -5,
    "token_mode": "image_no_markers",
    "normalization": "hybrid",
    "outlier_repair": "clamp",
    "length_match": "truncate",
    "blend_mode": "slerp",
    "image_dropout": 0.1,
    "reference_tokens": 64,
    "positions": "mrope",
    "layer_mix": "-8:0.7, -2:0.3",
    "image_layers": "-6",
    "weight": 0.7,
    "start": 0.1,
    "end": 0.9,
    "curve": "ease out",
    "blocks": "early",
    "merge": 3,
    "outlier_direction": "both",
}


def another(control: str, value: object) -> object:
    """A value of a control that is not this one."""
    if BY_NAME[control].kind == "switch":
        return not value
    choices = [CHANGED[control]] if control in CHANGED else []
    return next(choice for choice in (*choices, *reversed(BY_NAME[control].choices)) if choice != value)


def values_of(settings: Settings) -> dict:
    return {name: getattr(settings, name) for name in CONTROLS}


def test_these_are_the_presets_in_the_panels_order():
    assert list(PRESETS) == list(WANTED)
    assert BY_NAME["preset"].choices == (*WANTED, CUSTOM)


@pytest.mark.parametrize("name", WANTED)
def test_a_preset_names_every_control_it_is_about_and_sets_these_values(name):
    assert PRESETS[name] == WANTED[name]
    assert {key: type(value) for key, value in PRESETS[name].items()} == {
        key: type(BY_NAME[key].default) for key in CONTROLS
    }


def test_no_preset_is_about_what_belongs_to_one_picture_or_one_computer():
    assert {"enabled", "reference", "model", "device", "preset"}.isdisjoint(CONTROLS)


def test_every_preset_is_said_in_one_line():
    assert list(ABOUT) == list(PRESETS)
    for about in ABOUT.values():
        assert about.endswith(".")
        assert len(about) <= 120
        assert len(about.splitlines()) == 1


def test_the_preset_to_start_with_is_a_fresh_panel():
    assert START == "Balanced"
    assert {name: BY_NAME[name].default for name in CONTROLS} == PRESETS[START]
    assert (
        Settings.from_mapping({"preset": START})
        == Settings()
        == Settings(**{option.name: option.default for option in OPTIONS})
    )
    assert BY_NAME["preset"].default == START


def test_no_two_presets_are_the_same():
    assert all(one != other for one, other in itertools.combinations(PRESETS.values(), 2))


# --- choosing


@pytest.mark.parametrize("name", WANTED)
def test_choosing_by_name_sets_the_values_and_is_recognized_by_them(name):
    settings = Settings.from_mapping({"preset": name})
    assert values_of(settings) == WANTED[name]
    assert settings.preset == preset_of(settings) == name
    alone = Settings.from_mapping(WANTED[name])  # the values alone, as infotext brings them back
    assert (alone.unit(1), alone.preset) == (settings.unit(1), name)


@pytest.mark.parametrize("name", WANTED)
def test_a_preset_is_about_every_reference(name):
    beside = {"references": [{"image": "a"}, {"image": "b", "weight": 0.123}, {"image": "c"}]}
    units = Settings.from_mapping({"preset": name, **beside}).units
    assert [values_of(units[number]) for number in (1, 3)] == [WANTED[name]] * 2
    assert values_of(units[2]) == {**WANTED[name], "weight": 0.123}


@pytest.mark.parametrize(("before", "after"), itertools.permutations(WANTED, 2))
def test_choosing_another_preset_leaves_nothing_of_the_one_before(before, after):
    chosen = dataclasses.replace(Settings.from_mapping({"preset": before}), **PRESETS[after])
    assert values_of(chosen) == WANTED[after]
    assert preset_of(chosen) == after


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", WANTED)
def test_a_value_named_beside_a_preset_wins_whatever_the_order(name, control):
    beside = {control: another(control, WANTED[name][control])}
    settings = Settings.from_mapping({"preset": name, **beside})
    assert values_of(settings) == {**WANTED[name], **beside}
    assert settings.preset == CUSTOM
    assert settings == Settings.from_mapping({**beside, "preset": name})


@pytest.mark.parametrize(("name", "beside", "becomes"), [
    ("Splice: faithful", {"image_dropout": 0.75}, "Splice: variation"),
    ("Splice: creative", {"image_dropout": 0.0, "hidden_layer": -2}, "Splice: faithful"),
    ("Research image tokens", {"normalization": "sink_aware"}, "Image tokens, sink-aware"),
    ("Splice: gist", RESEARCH, "Research default"),
])  # fmt: skip
def test_values_that_make_another_preset_are_called_by_its_name(name, beside, becomes):
    assert Settings.from_mapping({"preset": name, **beside}).preset == becomes


@pytest.mark.parametrize("name", WANTED)
def test_what_a_preset_is_not_about_keeps_its_value_and_does_not_change_its_name(name):
    own = {
        "enabled": True,
        "model": "m",
        "vl_prompt": "the style",
        "system_prompt": "x",
        "device": "cpu",
        "storage": "fp8",
        "outlier_threshold": 3.0,
    }
    settings = Settings.from_mapping({"preset": name, **own})
    assert {key: getattr(settings, key) for key in own} == own
    assert settings.preset == name


def test_custom_sets_nothing():
    settings = Settings.from_mapping({"preset": CUSTOM, "alpha": 0.4})
    assert values_of(settings) == {**WEIGHTED, "alpha": 0.4}
    assert Settings.from_mapping({"preset": CUSTOM}) == Settings()  # and is found to be what it is


@pytest.mark.parametrize("name", ["research default", "Splice", "", None, 0, True])
def test_an_unknown_preset_is_refused(name, refused):
    with refused("preset must be one of Balanced, Fill in, Close variation, Research default, "):
        Settings.from_mapping({"preset": name})
