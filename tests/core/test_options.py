"""Every control is declared once, checks its own value, and guesses nothing."""

import dataclasses
import json
import math

import pytest
from published import research

from zvl_ext.options import BY_NAME, OPTIONS, UNIT_OPTIONS, UNITS, Settings, preset_of

# The order of the positional API, as the design lists the names. New options go behind these.
FIRST_NAMES = [
    "enabled",
    "engine",
    "reference",
    "model",
    "preset",
    "alpha",
    "hidden_layer",
    "token_mode",
    "scale_to_text",
    "normalization",
    "outlier_repair",
    "outlier_threshold",
    "length_match",
    "blend_mode",
    "image_dropout",
    "reference_tokens",
    "vl_prompt",
    "system_prompt",
    "device",
    "positions",
    "storage",
    "weight",
    "start",
    "end",
    "curve",
    "blocks",
    "merge",
    "proportional",
    "block_place",
    "outlier_direction",
    "combine",
    "crop",
    "reference_mask",
    "region",
    "region_mask",
    "negative",
    "reference_2",
    "image_dropout_2",
    "weight_2",
    "start_2",
    "end_2",
    "curve_2",
    "blocks_2",
    "crop_2",
    "reference_mask_2",
    "region_2",
    "region_mask_2",
    "negative_2",
]


def test_the_positional_order_never_changes():
    assert [option.name for option in OPTIONS][: len(FIRST_NAMES)] == FIRST_NAMES


def test_the_fields_of_settings_are_the_options():
    assert (
        [field.name for field in dataclasses.fields(Settings)] == [option.name for option in OPTIONS] == list(BY_NAME)
    )


def test_a_round_of_additions_stands_before_the_next_one():
    assert [option.added for option in OPTIONS] == sorted(option.added for option in OPTIONS)
    assert {option.name: option.added for option in OPTIONS if option.first in FIRST_NAMES} == {
        option.name: 0 for option in OPTIONS if option.first in FIRST_NAMES
    }


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_default_passes_its_own_check_and_keeps_its_type(option):
    checked = option.check(option.default)
    assert checked == option.default
    assert type(checked) is type(option.default)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_declaration_is_complete(option):
    assert option.label
    assert option.help.endswith(".")
    if option.kind in ("number", "integer"):
        assert option.minimum <= option.default <= option.maximum
        assert option.step > 0
        assert option.check(option.minimum) == option.minimum
        assert option.check(option.maximum) == option.maximum
    if option.kind == "choice":
        assert option.default in option.choices
        assert len(set(option.choices)) == len(option.choices)
        assert all(option.check(choice) == choice for choice in option.choices)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_description_is_plain_data(option):
    described = json.loads(json.dumps(option.describe(), allow_nan=False))
    assert described["name"] == option.name
    assert {"kind", "default", "range", "label", "infotext", "axis", "choices"} <= described.keys()


WRONG = {
    "enabled": [1, 0, "true", "True", None, [], 1.0],
    "alpha": ["0.3", -0.01, 1.01, math.nan, math.inf, -math.inf, None, True, [0.3], {"a": 1}, 10**30, 1 + 0j],
    "hidden_layer": [0, 1, -37, -1.5, "-8", None, False, math.nan, math.inf, 1e300, -(10**400), b"-8"],
    "token_mode": ["Text", "text ", "", None, 0, ["text"], "everything"],
    "outlier_threshold": [0.5, 1000.5, "10", math.nan],
    "reference_tokens": [3, 1025, 0, -4, 7.5, "256"],
    "vl_prompt": [1, [], {}, b"text", False],
    "model": [1, ["a"], b"name"],
    "device": ["cuda", "", None, 0],
    "weight": ["1", -0.01, 2.01, math.nan, math.inf, None, True],
    "start": [-0.01, 1.01, math.nan, "0"],
    "end": [-0.01, 1.01, math.nan, None],
    "curve": ["linear", "", None, 0],
    "blocks": [1, ["all"], "everything", "0-", "9-0", "0-9:9", "all:-1", "0..9", ",", "all," * 60],
    "merge": [0, 4, 1.5, "2", True],
    "proportional": [1, "true", None],
    "block_place": ["middle", "", None],
    "outlier_direction": ["up", "", None],
    "combine": ["both", "", None],
    "crop": ["fit", "", None, 1],
    "region": [1, ["left"], "middle", "0,0,1", "0.5,0,0.5,1", "0,0,2,1", "1,0,0,1", "nan,0,1,1", "left," * 30],
    "negative": [1, "true", None],
    "weight_2": ["1", -0.01, 2.01, math.nan, None],
    "blocks_4": [1, "9-0"],
    "region_4": ["middle", "0,0,1", "1,0,0,1"],
    "curve_3": ["linear", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_in_one_line_that_names_the_option(name, value, refused):
    with refused(name):
        BY_NAME[name].check(value)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_too_large_for_a_float_is_refused_like_any_other(sign, refused):
    """JSON has integers of any length; `math.isfinite` raises OverflowError on them."""
    with refused("alpha"):
        BY_NAME["alpha"].check(sign * 10**400)


def test_a_long_wrong_value_is_shown_shortened(refused):
    with refused(r"^.{,200}$"):
        BY_NAME["token_mode"].check("x" * 10_000)


@pytest.mark.parametrize(
    ("name", "value", "meant"), [("hidden_layer", -8.0, -8), ("alpha", 1, 1.0), ("reference_tokens", 64.0, 64)]
)
def test_json_and_sliders_may_write_whole_numbers_either_way(name, value, meant):
    checked = BY_NAME[name].check(value)
    assert (checked, type(checked)) == (meant, type(meant))


TEXTS = [
    o
    for o in OPTIONS
    if o.kind in ("text", "model", "conditioning", "profile", "projection", "blocks", "region", "layers")
]
LONGEST = {"blocks": "all:1.", "region": "0,0,1,0.", "layers": "-8:1."}  # of the kinds whose texts have a form


@pytest.mark.parametrize("option", TEXTS, ids=lambda option: option.name)
def test_every_text_has_a_length(option, refused):
    assert option.length > 0
    long = LONGEST.get(option.kind, "").ljust(option.length - 1, "0") + "1"
    assert option.check(long) == long
    with refused(f"{option.name} must be a text of at most {option.length} characters"):
        option.check(long + "0")


@pytest.mark.parametrize("option", TEXTS, ids=lambda option: option.name)
@pytest.mark.parametrize("text", ["cat \ud83d", "\udc00", "a\ud83d\ud83db"], ids=ascii)
def test_half_of_a_pair_of_surrogates_is_no_text(option, text, refused):
    """JavaScript cuts texts between UTF-16 units, and JSON brings the halves."""
    with refused(f"{option.name} must be valid Unicode text"):
        option.check(text)


def test_what_is_no_text_has_no_length():
    assert {option.length for option in OPTIONS if option not in TEXTS} == {None}


def _deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


UNSHOWABLE = {
    "many digits": 10**5000,
    "deep": _deep(5000),
    "a long list": ["x" * 1000] * 1000,
    "an object": {"a": 10**5000},
    "not printable": "\x00" * 500,
    "half an emoji": "\ud83d" * 500,
    "lines": "a\nb\u2028c" * 50,
}


@pytest.mark.parametrize("name", ["alpha", "hidden_layer", "token_mode", "enabled", "merge"])
@pytest.mark.parametrize("value", UNSHOWABLE.values(), ids=UNSHOWABLE)
def test_what_can_not_be_shown_is_refused_like_any_other(name, value, refused):
    with refused(rf"^.*{name}.{{,150}}$"):
        BY_NAME[name].check(value)


@pytest.mark.parametrize(
    "name", [10**5000, "x" * 10**6, "\ud83d", ("a",) * 9, None], ids=["digits", "long", "half", "tuple", "none"]
)
def test_an_unknown_name_that_can_not_be_shown(name, refused):
    with refused("^.{,200}$"):
        Settings.from_mapping({name: 1})


def test_an_empty_text_box_is_empty_text():
    assert BY_NAME["vl_prompt"].check(None) == ""
    assert BY_NAME["model"].check(None) == ""


def test_an_empty_picture_is_no_picture():
    assert BY_NAME["reference"].check("") is None
    assert BY_NAME["reference"].check(None) is None


# --- several references


def test_the_first_references_options_are_there_for_each():
    own = [option.name for option in UNIT_OPTIONS]
    assert own == [
        "reference", "image_dropout", "weight", "start", "end", "curve", "blocks", "crop", "reference_mask", "region",
        "region_mask", "negative",
    ]  # fmt: skip
    for number in range(2, UNITS + 1):
        for first in UNIT_OPTIONS:
            option = BY_NAME[f"{first.name}_{number}"]
            assert (option.first, option.unit, option.label) == (first.name, number, f"{first.label} {number}")
            assert (option.kind, option.default, option.help) == (first.kind, first.default, first.help)
            assert option.infotext == f"{first.infotext} {number}"
            assert option.axis == (first.axis and f"{first.axis} {number}")
    assert len(OPTIONS) == len([option for option in OPTIONS if option.unit < 2]) + (UNITS - 1) * len(own)


def test_labels_axes_and_infotext_keys_are_unique():
    for attribute in ("label", "axis", "infotext"):
        given = [value for option in OPTIONS if (value := getattr(option, attribute))]
        assert len(set(given)) == len(given)


def test_a_list_of_references_is_the_numbered_options():
    pictures = ["one", "two", "three"]
    listed = Settings.from_mapping(
        {
            "alpha": 0.5,
            "references": [
                {"image": pictures[0], "weight": 1},
                {"image": pictures[1], "weight": 0.3, "region": "left", "start": 0.25},
                {"image": pictures[2], "negative": True, "region_mask": "mask", "crop": "centre"},
            ],
        }
    )
    assert listed == Settings.from_mapping(
        {
            "alpha": 0.5, "reference": "one", "weight": 1.0, "reference_2": "two", "weight_2": 0.3, "region_2": "left",
            "start_2": 0.25, "reference_3": "three", "negative_3": True, "region_mask_3": "mask", "crop_3": "centre",
        }
    )  # fmt: skip
    assert list(listed.units) == [1, 2, 3]
    second = listed.units[2]
    assert (second.reference, second.weight, second.region, second.start) == ("two", 0.3, "left", 0.25)
    assert (second.reference_2, second.weight_2, second.alpha) == (None, Settings().weight_2, 0.5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"references": {"image": "x"}}, "references must be a list of objects"),
        ({"references": ["x"]}, "references must be a list of objects"),
        ({"references": [{}] * 5}, "5 references were given, a picture has 4 at most"),
        ({"references": [{"weigth": 1}]}, "a reference has no 'weigth'; it may have image"),
        ({"references": [{"alpha": 1}]}, "a reference has no 'alpha'"),
        ({"references": [{"image": "x"}], "reference": "y"}, "reference is given twice"),
        ({"references": [{}, {"weight": 1}], "weight_2": 1}, "weight_2 is given twice"),
        ({"references": [{}, {"weight": 3}]}, "weight_2 must be a number from 0 to 2"),
        ({"weight_5": 1}, "there is no option 'weight_5'"),
        ({"weight_1": 1}, "there is no option 'weight_1'"),
    ],
)
def test_a_list_of_references_that_is_none_is_refused(values, says, refused):
    with refused(says):
        Settings.from_mapping(values)


# --- named values


def test_no_values_give_the_defaults():
    assert Settings.from_mapping({}) == Settings() == Settings.from_positions([])


def test_defaults_are_the_preset_to_start_with():
    settings = Settings()
    assert preset_of(settings) == settings.preset == "Balanced"
    assert (settings.engine, settings.alpha, settings.hidden_layer, settings.token_mode) == ("splice", 1.0, -2, "all")
    assert (settings.length_match, settings.positions, settings.weight) == ("insert", "sequential", 0.6)
    assert (settings.merge, settings.proportional, settings.block_place) == (2, True, "front")
    assert (settings.scale_to_text, settings.normalization) == (True, "sink_aware")


def test_the_published_settings_are_a_preset():
    settings = research()
    assert preset_of(settings) == settings.preset == "Research default"
    assert (settings.engine, settings.alpha, settings.hidden_layer, settings.token_mode) == ("blend", 0.3, -8, "text")
    assert (settings.scale_to_text, settings.normalization) == (True, "global")


def test_an_unknown_name_is_refused_with_the_nearest_known_one(refused):
    with refused("there is no option 'alfa'; did you mean alpha"):
        Settings.from_mapping({"alfa": 0.5})


@pytest.mark.parametrize("name", ["", "zzzzzz", 5, "alpha\nx"])
def test_an_unknown_name_without_a_neighbour_is_refused(name, refused):
    with refused("there is no option"):
        Settings.from_mapping({name: 0.5})


def test_a_preset_with_its_own_value_repeated_stays_that_preset():
    assert (
        Settings.from_mapping({"preset": "Research image tokens", "token_mode": "image"}).preset
        == "Research image tokens"
    )


# --- positional values


def test_positions_follow_the_fields_and_missing_ones_keep_their_default():
    settings = Settings.from_positions([True, "blend", None, "model", "Research default", 0.5])
    assert (settings.enabled, settings.model, settings.alpha) == (True, "model", 0.5)
    assert settings.hidden_layer == Settings().hidden_layer


def test_a_preset_among_positions_is_only_a_label():
    settings = Settings.from_positions([True, "blend", None, "", "Research image tokens", 0.3, -8, "text"])
    assert (settings.token_mode, settings.preset) == ("text", "Custom")


def test_too_many_positions_are_refused(refused):
    with refused(f"there are {len(OPTIONS)} options"):
        Settings.from_positions([None] * (len(OPTIONS) + 1))


def test_a_wrong_value_among_positions_is_refused(refused):
    with refused("alpha"):
        Settings.from_positions([True, "blend", None, "", "Custom", "much"])


def test_settings_survive_a_round_trip_through_names_and_positions():
    changed = Settings.from_mapping(
        {"enabled": True, "alpha": 0.55, "token_mode": "all", "system_prompt": "Zwei\nZeilen", "device": "cpu"}
    )
    values = dataclasses.asdict(changed)
    assert Settings.from_mapping(values) == changed
    assert Settings.from_positions([values[option.name] for option in OPTIONS]) == changed


def test_settings_can_not_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().alpha = 1.0
