"""Which controls change nothing, and that this is so: of everything an image model gets, not a bit differs."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from published import research

from zvl_ext.conditioner import condition_units, plain_picture, units_of, weighting_of
from zvl_ext.conditioning import Conditioning
from zvl_ext.declaration import FILES
from zvl_ext.effects import FILE, RULES, idle, plain_because, unheard
from zvl_ext.mixing.statistics import measure
from zvl_ext.options import BY_NAME, OPTIONS, PRESETS, PROMPT, Settings
from zvl_ext.weighting import WEIGHTING

INSERTED = {"engine": "splice", "alpha": 1.0, "hidden_layer": -2, "token_mode": "all", "length_match": "insert"}
WEIGHED = ("weight", "profile", "blocks", "merge", "proportional", "block_place")


# --- the rules, one by one

# options -> values beside the published ones under which they have no part, and such under which they have
RULED: list[tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = [
    (WEIGHED, {}, {**INSERTED, "merge": 2}),
    (WEIGHED, {"token_mode": "all"}, {**INSERTED, "image_dropout": 0.5}),
    (WEIGHED, {**INSERTED, "token_mode": "text"}, {**INSERTED, "token_mode": "image", "merge": 3}),
    (("image_dropout", "reference_mask", "image_layers"), {}, {"token_mode": "image"}),
    (
        ("start", "end", "curve"),
        {"length_match": "truncate", "token_mode": "image"},
        {"length_match": "interpolate", "token_mode": "image"},
    ),
    (("start", "end", "curve"), {"length_match": "truncate", "vl_prompt": "x"}, {"length_match": "truncate"}),
    (("curve",), {"start": 0.5, "end": 0.5}, {"start": 0.5, "end": 0.6}),
    (("proportional",), INSERTED, {**INSERTED, "image_dropout": 0.1}),
    (("blend_mode",), {**INSERTED, "token_mode": "image"}, INSERTED),
    (("blend_mode",), {**INSERTED, "token_mode": "image_no_markers"}, {"token_mode": "image"}),
    (("length_match",), {}, {"vl_prompt": "x"}),
    (("length_match",), {}, {"token_mode": "image"}),
    (("positions",), {}, {"engine": "splice"}),
    (("storage", "projection"), {"engine": "splice"}, {}),
    (("outlier_threshold", "outlier_direction"), {}, {"outlier_repair": "zero"}),
    (("normalization",), {"scale_to_text": False}, {}),
    (("region", "region_mask"), {"token_mode": "all"}, INSERTED),
    (("hidden_layer",), {"layer_mix": "-3"}, {}),
    (
        ("hidden_layer", "layer_mix"),
        {"token_mode": "image", "image_layers": "-3"},
        {"token_mode": "all", "image_layers": "-3"},
    ),
    (("combine",), {"reference": "x"}, {"reference": "x", "reference_3": "y"}),
    (("combine",), {"reference": "x", "reference_3": "y", "negative_3": True}, {}),
    (("combine",), {**INSERTED, "reference": "x", "reference_3": "y", "weight_3": 0.0}, {}),
    (
        ("denoising_strength",),
        {"reference_2": "x", "negative_2": True},
        {"reference": "x", "reference_2": "x", "negative_2": True},
    ),
    (("vl_prompt",), {"token_mode": "image"}, {"token_mode": "all"}),
    (("vl_prompt",), {"token_mode": "image_no_markers"}, {}),
]


@pytest.mark.parametrize(("names", "holds", "not_here"), RULED)
def test_a_rule_holds_here_and_not_there(names: tuple, holds: dict, not_here: dict) -> None:
    assert set(names) <= idle(research(**holds)).keys()
    assert not set(names) & idle(research(**not_here)).keys()


def test_every_rule_is_in_the_table() -> None:
    for rule in (each for each in RULES if each is not FILE):
        assert any(set(rule.names) <= set(names) and rule.holds(research(**holds)) for names, holds, _ in RULED)
        assert any(set(rule.names) <= set(names) and not rule.holds(research(**other)) for names, _, other in RULED)


@pytest.mark.parametrize("read_with", [{}, INSERTED, {"length_match": "truncate", "token_mode": "image"}], ids=str)
def test_of_a_conditioning_file_what_it_weighs_acts_whatever_it_was_read_with(read_with: dict) -> None:
    silent = idle(research(**read_with, conditioning="x"))
    acting = {option.first for option in OPTIONS if option.name not in silent}
    assert acting == {"enabled", "reference", "preset", "conditioning", "measured", *WEIGHTING}
    assert plain_because(research(**read_with | {"alpha": 0.0}, conditioning="x")) == ""
    lines = unheard(research(conditioning="x", image_dropout=0.5, merge=2))
    assert [line.split(" changes")[0] for line in lines] == ["Z-Image VL: Image dropout", "Z-Image VL: Merge"]


def test_a_reason_is_the_second_half_of_a_sentence() -> None:
    for rule in RULES:
        assert rule.reason[0].islower()
        assert not rule.reason.endswith(".")
        assert len(f"Z-Image VL: Proportional attention changes nothing here: it {rule.reason}.") < 200


# --- whether it is so

BASES: dict[str, dict[str, Any]] = {
    **{name: {"preset": name} for name in PRESETS},
    "truncated": {"length_match": "truncate", "token_mode": "image_no_markers"},
    "truncated, a text of its own": {"vl_prompt": "in oil", "length_match": "truncate"},
    "layers": {"token_mode": "all", "layer_mix": "-4:2, -2", "image_layers": "-3"},
    "layers of the image": {"token_mode": "image", "image_layers": "-4"},
    "truncated, the prompt": {"length_match": "truncate", "curve": "ease out"},
    "no steps": {"start": 0.7, "end": 0.7},
    "repaired": {"outlier_repair": "clamp", "outlier_threshold": 1.5, "token_mode": "image"},
    "as it is": {"scale_to_text": False, "token_mode": "all"},
    "image rows inserted": {"length_match": "insert", "token_mode": "image", "engine": "splice", "weight": 0.5},
    "text rows, insert": {"length_match": "insert"},
    "counted": {**INSERTED, "merge": 2, "image_dropout": 0.3, "proportional": True, "curve": "ease in"},
}
# Where a result is computed and what is read are not of the settings that make the picture.
# Further references are the first one's declarations once more.
VARIED = [o for o in OPTIONS if o.infotext and o.kind not in FILES and o.unit < 2]
OTHERS: dict[str, list[Any]] = {  # values to be tried, where the ends and the choices are not the ones
    "hidden_layer": [-3, -1],
    "layer_mix": ["", "-3", "-3:0.7, -1:0.3"],
    "image_layers": ["", "-3", "-3:0.7, -1:0.3"],
    "reference_tokens": [4, 8, 24, 64],
    "outlier_threshold": [1.0, 2.0, 10.0],
    "vl_prompt": [PROMPT, "", "the style of {prompt}"],
    "system_prompt": ["", "Look."],
    "blocks": ["all", "early", "0-9:0.5, 20-29"],
    "image_dropout": [0.0, 0.3, 0.9],
    "region": ["all", "left", "0, 0, 0.3, 1"],
}
SHAPE = (64, 64)  # of the picture: another one than the reference's


def base_of(name: str) -> Settings:
    return research(**{**BASES[name], "hidden_layer": -2, "reference_tokens": 24})


def others(option: Any) -> list[Any]:
    if option.name in OTHERS:
        return OTHERS[option.name]
    if option.kind == "switch":
        return [True, False]
    return list(option.choices) or [option.minimum, option.check((option.minimum + option.maximum) / 2), option.maximum]


def parts(made: Conditioning) -> tuple[Any, ...]:
    """All that an image model gets at any step: nothing of the weighting where there is nothing to weigh."""
    weighed = [] if made.steady else made.parts
    regions = [part.region for part in weighed if part.region is not None and made.marks is not None]
    return made.rows, made.plain, made.marks, [part.weighting for part in weighed], *regions


def identical(one: Conditioning, other: Conditioning) -> bool:
    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        return not isinstance(a, torch.Tensor) and not isinstance(b, torch.Tensor) and a == b

    mine, others = parts(one), parts(other)
    return len(mine) == len(others) and all(same(a, b) for a, b in zip(mine, others))


@pytest.fixture
def conditioned(sources: Any, reference: Any, text_of: Any) -> Any:
    text = text_of()
    measured = measure(text_of("a photo of a dog, seen from behind").embeddings)
    spread = measured.per_dim_std.clone()
    spread[3], spread[5] = spread[3] / 1e3, spread[5] * 1e3  # so that there are outliers on both sides
    statistics = dataclasses.replace(measured, per_dim_std=spread)
    sources.statistics = lambda: statistics
    return lambda settings: condition_units(units_of(settings, SHAPE), [text], sources)[0](7)


@pytest.mark.parametrize("base", BASES)
def test_an_option_that_is_called_idle_changes_not_a_bit_and_every_other_one_something(
    base: str, conditioned: Any, reference: Any
) -> None:
    settings = dataclasses.replace(base_of(base), reference=reference)
    silent, made = idle(settings), conditioned(settings)
    for option in VARIED:
        # What the weights are kept in is the loader's, and what sampling begins from is the sampler's.
        if option.name in ("storage", "denoising_strength"):
            continue
        varied = [dataclasses.replace(settings, **{option.name: value}) for value in others(option)]
        same = [identical(conditioned(each), made) for each in varied]
        if option.name in silent:
            assert all(same), f"{option.name} is called idle and changes the conditioning"
        elif not plain_picture(settings):
            assert not all(same), f"{option.name} is not called idle and changes nothing"


def test_storage_is_for_what_engine_splice_does_not_load() -> None:
    """The vision tower is never kept in fp8."""
    assert {"storage"} <= idle(research(engine="splice")).keys()
    assert "storage" not in idle(research(engine="blend"))


# --- what is said


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_alone_asks_for_nothing_in_vain(name: str) -> None:
    assert unheard(Settings.from_mapping({"preset": name})) == []


@pytest.mark.parametrize(("values", "said"), [
    ({"image_dropout": 0.5}, ["Image dropout changes nothing here: it needs a token mode with image tokens."]),
    ({"positions": "mrope"}, ["Positions changes nothing here: it is for engine splice."]),
    (
        {"weight": 0.5},
        ["Weight changes nothing here: it acts on inserted tokens: it needs length match insert and a token mode with "
         "image tokens."],
    ),
    (
        {"start": 0.1, "curve": "ease in", "length_match": "truncate", "token_mode": "image"},
        ["Starting step changes nothing here: it does not act with length match truncate; choose interpolate or "
         "insert.",
         "Weight curve changes nothing here: it does not act with length match truncate; choose interpolate or "
         "insert."],
    ),
    ({"engine": "splice", "storage": "fp8"}, [
        "Weights in memory changes nothing here: it is for engine blend: splice needs no language model of Qwen3-VL's.",
    ]),
    (
        {"token_mode": "image", "vl_prompt": "x"},
        ["Text for Qwen3-VL changes nothing here: it is read after the image, so it has no part in the image's "
         "tokens."],
    ),
    ({}, []),
    ({"image_dropout": 0.5, "token_mode": "image"}, []),
])  # fmt: skip
def test_what_is_asked_for_in_vain_is_said_in_one_line_each(values: dict, said: list[str]) -> None:
    assert unheard(research(**values)) == ["Z-Image VL: " + line for line in said]


@pytest.mark.parametrize(
    ("values", "because"),
    [
        ({"alpha": 0.0}, "alpha is 0"),
        ({**INSERTED, "weight": 0.0}, "the weight is 0"),
        ({**INSERTED, "start": 1.0, "end": 1.0}, "the starting step is not before the ending step"),
        ({"start": 0.6, "end": 0.5}, "the starting step is not before the ending step"),
        ({**INSERTED, "blocks": "early:0"}, "no block looks at the reference"),
        ({"weight": 0.0}, ""),
        ({"blocks": "all:0"}, ""),
        ({"start": 1.0, "length_match": "truncate", "token_mode": "all"}, ""),
        ({}, ""),
    ],
)
def test_why_a_picture_is_plain(values: dict, because: str) -> None:
    assert plain_because(research(**values)) == because


def test_there_is_a_reason_exactly_where_the_picture_is_plain() -> None:
    choices = {
        "alpha": (0.0, 0.3),
        "weight": (0.0, 0.5, 1.0),
        "start": (0.0, 0.5),
        "end": (0.0, 0.5, 1.0),
        "blocks": ("all", "early:0", "late:0, early"),
        "token_mode": BY_NAME["token_mode"].choices,
        "length_match": BY_NAME["length_match"].choices,
        "vl_prompt": (PROMPT, "x"),
    }
    for values in itertools.product(*choices.values()):
        settings = dataclasses.replace(Settings(), **dict(zip(choices, values)))
        assert bool(plain_because(settings)) == plain_picture(settings)
        assert plain_picture(settings) == (settings.alpha == 0.0 or weighting_of(settings).idle)
