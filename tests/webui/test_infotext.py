"""The picture's parameters: written when the effect has happened, read back as the settings that made it."""

from __future__ import annotations

import dataclasses
from typing import Any

import hosts  # noqa: F401  enters the web UI
import pytest
from host_fixtures import WebUI
from host_runs import same
from infotexts import WRITTEN, own, parsed
from modules import infotext_utils
from published import as_published, research

from zvl_ext import __version__
from zvl_ext.conditioner import plain_picture
from zvl_ext.declaration import numbered
from zvl_ext.effects import idle
from zvl_ext.options import BY_NAME, CUSTOM, OPTIONS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import Reference, open_reference
from zvl_ext.webui import infotext, run

pytest_plugins = ["host_fixtures"]


def of(reference: Reference) -> dict[str, str]:
    """The digests of a picture with this one reference."""
    return {"reference": reference.digest}


@pytest.fixture(scope="session")
def opened(picture: Any) -> Reference:
    return open_reference(picture)


# What the published settings have in a picture's parameters.
_NAMES = ("preset", "engine", "reference", "model", "alpha", "layer", "tokens", "norm", "size")
PUBLISHED = {"ZVL", *(f"ZVL {name}" for name in _NAMES)}

# --- when it is written


def test_nothing_is_claimed_before_the_conditioning_is_made(web: WebUI, picture: Any) -> None:
    p = web.p()
    run.attach(p, [as_published({"enabled": True, "reference": picture})])
    assert not own(p.extra_generation_params)
    web.condition(p)
    assert own(p.extra_generation_params) == {
        "ZVL": __version__,
        "ZVL preset": "Research default",
        "ZVL engine": "blend",
        "ZVL reference": open_reference(picture).digest[:12],
        "ZVL model": "tiny-vl",
        "ZVL alpha": "0.3",
        "ZVL layer": "-8",
        "ZVL tokens": "text",
        "ZVL norm": "global",
        "ZVL size": "256",
    }


def test_it_is_written_when_the_conditioning_comes_from_the_cache(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture, alpha=0.5)
    again = web.run(web.p(), reference=picture, alpha=0.5)
    assert again.c is first.c
    assert own(again.extra_generation_params) == own(first.extra_generation_params)


def test_it_is_taken_out_at_the_next_run(web: WebUI, picture: Any) -> None:
    """Cells of a grid and rounds of a loop share the dict."""
    shared_dict = {"Other extension": 1}
    web.run(
        web.p(extra_generation_params=shared_dict), reference=picture, alpha=0.5, system_prompt="Look.", vl_prompt=""
    )
    more = {"ZVL text", "ZVL system", "ZVL length"}  # the length, because a text of its own is matched
    assert set(own(shared_dict)) == PUBLISHED - {"ZVL preset"} | more
    web.run(web.p(extra_generation_params=shared_dict), reference=picture)
    assert set(own(shared_dict)) == PUBLISHED
    for settings in ({"enabled": False}, {"reference": picture, "alpha": 0.0}, {"reference": None}):
        web.run(web.p(extra_generation_params=shared_dict), **settings)
        assert shared_dict == {"Other extension": 1}


def test_a_failed_run_leaves_nothing(web: WebUI, picture: Any, refused: Any) -> None:
    shared_dict: dict = {"Other extension": 1}
    web.run(web.p(extra_generation_params=shared_dict), reference=picture)
    with refused():
        web.run(web.p(extra_generation_params=shared_dict), reference="broken")
    assert shared_dict == {"Other extension": 1}


def test_the_keys_are_all_ours_and_unique() -> None:
    assert len(set(infotext.KEYS)) == len(infotext.KEYS)
    assert all(key == "ZVL" or key.startswith("ZVL ") for key in infotext.KEYS)


# --- there and back

NASTY = [
    "", " ", "  blank on both sides  ", "=", "= 1", "==", "512x512", "a, b", "a: b", "a, b: c, Seed: 7",
    'he said "no"', '"', '""', '"quoted"', '"half', "back\\slash", "\\", '\\"', '\\", Seed: 7, X: "', "two\nlines",
    "\n", "ends with a newline\n", "tab\tand\rreturn", "{prompt}", "{prompt} and {more}", "日本語 🍎 ünï", "\u2028",
    "None", "True", "0.5", "Negative prompt: x", "Steps: 1, Sampler: y, CFG scale: 2", "<b>&amp;</b>",
    "comma at the end,", ":", ",", "x" * 5000, "blanks at the end  ", "a, b  ", "no-break at the end\xa0", "\x85",
    "\ud83c", "half of \ud83c, and more ", '"[1]"', '"a" and "b"',
]  # fmt: skip


@pytest.mark.parametrize("name", ["vl_prompt", "system_prompt"])
@pytest.mark.parametrize("text", NASTY, ids=lambda text: repr(text[:24]))
def test_every_text_comes_back(web: WebUI, opened: Reference, name: str, text: str) -> None:
    option = next(o for o in OPTIONS if o.name == name)
    parameters = parsed(web, infotext.write(dataclasses.replace(Settings(), **{name: text}), of(opened), "tiny-vl"))
    assert infotext.read(option, parameters) == text
    assert infotext.MARK in parameters
    assert parameters["Prompt"] == "a cat, a dog: both"


@pytest.mark.parametrize("text", NASTY, ids=lambda text: repr(text[:24]))
def test_a_text_comes_back_as_the_last_value_of_the_parameters(web: WebUI, opened: Reference, text: str) -> None:
    """There the web UI strips what is blank; and a picture holds no half characters."""
    entries = infotext.write(dataclasses.replace(Settings(), system_prompt=text), of(opened), "tiny-vl")
    named = [name for name in ("ZVL", "ZVL engine", "ZVL size", "ZVL system") if name in entries]  # "": none is written
    line = ", ".join(f"{name}: {infotext_utils.quote(entries[name])}" for name in named)
    parameters = infotext_utils.parse_generation_parameters(f"a cat\n{line}".encode().decode())
    assert infotext.read(BY_NAME["system_prompt"], parameters) == text


def values_of(option: Any) -> list[Any]:
    """Both ends, the default's neighbours and one in the middle; all choices."""
    if option.kind == "switch":
        return [True, False]
    if option.kind == "choice":
        return list(option.choices)
    if option.kind in ("number", "integer"):
        steps = int((option.maximum - option.minimum) / option.step)
        number = float if option.kind == "number" else int
        return sorted(
            {
                number(round(option.minimum + step * option.step, 6))
                for step in (0, 1, steps // 3, steps // 2, steps - 1, steps)
            }
        )
    texts = {
        "blocks": ["late", "early:0.5, 20-29"],
        "region": ["left", "0, 0.25, 50%, 1"],
        "layers": ["-8:0.7, -2:0.3", "-6"],
    }
    return texts.get(option.kind, ["a text"])


def pasted(web: WebUI, settings: Settings, opened: Reference) -> dict[str, Any]:
    """What the options are that a picture's parameters bring back."""
    parameters = parsed(web, infotext.write(settings, of(opened), "tiny-vl"))
    return {option.name: infotext.read(option, parameters) for option in WRITTEN}


def acting(settings: Settings) -> dict[str, Any]:
    """The options that have a part in a picture, and what they are called in its parameters."""
    written = {option.name: getattr(settings, option.name) for option in WRITTEN}
    if not settings.scale_to_text:  # two controls for one thing
        written |= {"scale_to_text": True, "normalization": "none"}
    silent = idle(Settings.from_mapping(written))
    return {name: value for name, value in written.items() if name not in silent}


BESIDE = {  # what an option needs beside it to act
    "image_dropout": {"token_mode": "all"},
    "outlier_threshold": {"outlier_repair": "zero"},
    "outlier_direction": {"outlier_repair": "zero"},
    "positions": {"engine": "splice"},
    "storage": {"engine": "blend"},
    "length_match": {"token_mode": "all"},
    "image_layers": {"token_mode": "all"},
    "proportional": {"merge": 2},
}
INSERTED = ("weight", "blocks", "merge", "proportional", "block_place", "region")


@pytest.mark.parametrize("base", ["Research default", "Balanced", "Splice: creative"])
@pytest.mark.parametrize("option", WRITTEN, ids=lambda o: o.name)
def test_every_option_that_acts_comes_back(web: WebUI, opened: Reference, option: Any, base: str) -> None:
    beside = BESIDE.get(option.name, {})
    if option.name in INSERTED:
        beside = {"token_mode": "all", "length_match": "insert", **beside}
    for value in values_of(option):
        settings = Settings.from_mapping({"preset": base, **beside, option.name: value})
        wanted = acting(settings)
        assert option.name in wanted or plain_picture(settings) or not settings.scale_to_text
        got = pasted(web, settings, opened)
        assert {name: got[name] for name in wanted} == wanted
        assert {name: type(got[name]) for name in wanted} == {name: type(each) for name, each in wanted.items()}


def test_three_references_come_back(web: WebUI, opened: Reference) -> None:
    own = {
        1: {"weight": 1.0, "region": "left", "start": 0.1, "crop": "pad"},
        2: {"weight": 0.3, "region": "0.5, 0, 1, 1", "blocks": "late", "image_dropout": 0.5, "end": 0.8},
        3: {"weight": 0.4, "negative": True, "curve": "ease in"},
    }
    values = {numbered(name, number): value for number in own for name, value in own[number].items()}
    pictures = {numbered("reference", number): object() for number in own}
    digests = {name: f"{i:064x}"[::-1] for i, name in enumerate([*pictures, "reference_mask_2", "region_mask_3"], 1)}
    settings = Settings.from_mapping({**values, **pictures})
    parameters = parsed(web, infotext.write(settings, digests, "tiny-vl"))
    read = {o.name: infotext.read(o, parameters) for o in OPTIONS if o.infotext and o.kind not in ("image", "mask")}
    assert {name: read[name] for name in values} == values
    for name, value in read.items():
        if name not in ("model", *values):
            assert value == getattr(settings, name), name
    kept = {o.name: parameters.get(o.infotext) for o in OPTIONS if o.kind in ("image", "mask")}
    assert {name: digest for name, digest in kept.items() if digest} == {n: d[:12] for n, d in digests.items()}
    assert not [key for key in parameters if key.startswith("ZVL") and key.endswith(" 4")], "nobody is there"


def test_a_picture_of_the_second_reference_alone(web: WebUI, opened: Reference) -> None:
    settings = Settings.from_mapping({"reference_2": object(), "weight_2": 0.7})
    entries = infotext.write(settings, {"reference_2": opened.digest}, "tiny-vl")
    assert (entries["ZVL reference 2"], entries["ZVL weight 2"]) == (opened.digest[:12], "0.7")
    assert not {"ZVL reference", "ZVL weight"} & entries.keys()
    parameters = parsed(web, entries)
    assert infotext.read(BY_NAME["weight_2"], parameters) == 0.7
    assert infotext.read(BY_NAME["weight_3"], parameters) == BY_NAME["weight_3"].default


@pytest.mark.parametrize("base", PRESETS)
def test_what_has_no_part_in_the_picture_is_not_written(opened: Reference, base: str) -> None:
    for option in WRITTEN:
        for value in values_of(option):
            settings = Settings.from_mapping({"preset": base, option.name: value})
            keys = {BY_NAME[name].infotext for name in idle(settings)} - {"ZVL norm"}
            assert not keys & infotext.write(settings, of(opened), "tiny-vl").keys()


def test_all_options_at_once(web: WebUI, opened: Reference) -> None:
    settings = research(
        alpha=0.07,
        hidden_layer=-2,
        token_mode="all",
        normalization="hybrid",
        outlier_repair="clamp",
        outlier_threshold=2.5,
        outlier_direction="both",
        length_match="insert",
        blend_mode="adain_per_dim",
        image_dropout=0.25,
        reference_tokens=576,
        storage="fp8",
        weight=0.65,
        start=0.1,
        end=0.85,
        curve="ease in-out",
        blocks="early:0.5, 20-29",
        merge=3,
        proportional=True,
        block_place="front",
        vl_prompt='a, "b": c\n',
        system_prompt="512x512",
    )
    parameters = parsed(
        web,
        {"Before": 1, **infotext.write(settings, of(opened), "folder/model.safetensors")},
        After="a, b",
    )
    assert {o.name: infotext.read(o, parameters) for o in WRITTEN} == {
        o.name: getattr(settings, o.name) for o in WRITTEN
    }
    assert parameters["ZVL model"] == "folder/model.safetensors"
    assert parameters["ZVL reference"] == opened.digest[:12]


@pytest.mark.parametrize("alpha", [1 / 3, 0.1234567, 1e-7, 0.1 + 0.2])
def test_a_number_off_the_sliders_steps_comes_back(web: WebUI, opened: Reference, alpha: float) -> None:
    """The API and the X/Y/Z plot send what they like; the picture must say what made it."""
    parameters = parsed(web, infotext.write(dataclasses.replace(research(), alpha=alpha), of(opened), "tiny-vl"))
    assert infotext.read(next(o for o in OPTIONS if o.name == "alpha"), parameters) == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize("model", [
    "tiny-vl", "sub folder/qwen3vl_4b_fp8_scaled.safetensors", "a, b", "it's: here", 'q"uote', "été", "-x",
    "512x512", "blank at the end ",
])  # fmt: skip
def test_the_models_name_comes_back(web: WebUI, opened: Reference, model: str) -> None:
    option = next(o for o in OPTIONS if o.name == "model")
    assert infotext.read(option, parsed(web, infotext.write(Settings(), of(opened), model))) == model


def test_a_fresh_panels_picture_can_be_read_by_itself(web: WebUI, opened: Reference) -> None:
    """The main settings and the preset's name are written whatever the defaults are."""
    entries = infotext.write(Settings(), of(opened), "tiny-vl")
    assert entries == {
        "ZVL": __version__,
        "ZVL preset": "Balanced",
        "ZVL engine": "splice",
        "ZVL reference": opened.digest[:12],
        "ZVL model": "tiny-vl",
        "ZVL alpha": "1",
        "ZVL layer": "-2",
        "ZVL tokens": "all",
        "ZVL norm": "sink_aware",
        "ZVL length": "insert",
        "ZVL size": "576",
        "ZVL weight": "0.6",
        "ZVL merge": "2",
    }
    parameters = parsed(web, entries)
    for option in WRITTEN:
        assert infotext.read(option, parameters) == option.default


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_picture_brings_back_the_preset_to_the_last_control(web: WebUI, opened: Reference, name: str) -> None:
    """Also where controls have no part in it: the panel names what all of its controls amount to."""
    settings = Settings.from_mapping({"preset": name})
    parameters = parsed(web, infotext.write(settings, of(opened), "tiny-vl"))
    assert parameters["ZVL preset"] == infotext.preset(parameters) == name
    for option in WRITTEN:
        assert infotext.read(option, parameters) == getattr(settings, option.name)


def test_settings_of_ones_own_have_no_presets_name(web: WebUI, opened: Reference) -> None:
    entries = infotext.write(research(alpha=0.31), of(opened), "tiny-vl")
    assert "ZVL preset" not in entries
    assert infotext.preset(parsed(web, entries)) == CUSTOM


def test_values_speak_against_a_presets_name_that_they_do_not_have(web: WebUI, opened: Reference) -> None:
    """Parameters are edited by hand, and presets may change."""
    parameters = parsed(web, infotext.write(Settings(), of(opened), "tiny-vl") | {"ZVL weight": "0.7"})
    assert infotext.preset(parameters) == CUSTOM
    assert infotext.read(BY_NAME["weight"], parameters) == 0.7
    assert (
        infotext.preset(parsed(web, infotext.write(Settings(), of(opened), "x") | {"ZVL preset": "Gone"})) == "Balanced"
    )


def test_parameters_of_another_picture_set_nothing(web: WebUI) -> None:
    parameters = parsed(web, {"Other": 1})
    assert infotext.preset(parameters) is None
    assert all(infotext.read(option, parameters) is None for option in WRITTEN)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("ZVL alpha", value) for value in ("much", "nan", "7")],
        *[("ZVL layer", value) for value in ("-2.5", "inf", "1e999")],
        ("ZVL tokens", "words"),
        ("ZVL proportional", "yes"),
        ("ZVL blocks", "first"),
        ("ZVL merge", "4"),
    ],
)
def test_a_value_that_is_none_leaves_its_control_alone(web: WebUI, key: str, value: str) -> None:
    parameters = parsed(web, {"ZVL": "9.9", key: value})
    option = next(o for o in OPTIONS if o.infotext == key)
    assert infotext.read(option, parameters) is None
    infotext.preset(parameters)


def test_scale_to_text_is_on_after_a_paste_and_off_is_normalization_none(web: WebUI) -> None:
    for scale, normalization in (("False", "none"), ("True", "per_dim"), ("yes", "per_dim")):
        parameters = parsed(web, {"ZVL": "0.1.0", "ZVL scale": scale, "ZVL norm": "per_dim"})
        assert infotext.read(BY_NAME["scale_to_text"], parameters) is True
        assert infotext.read(BY_NAME["normalization"], parameters) == normalization


def test_the_written_settings_make_the_same_conditioning_again(web: WebUI, picture: Any) -> None:
    first = web.run(
        web.p(), reference=picture, alpha=0.55, token_mode="all", blend_mode="slerp", system_prompt="Look, then: answer"
    )
    parameters = parsed(web, own(first.extra_generation_params))
    pasted = {o.name: infotext.read(o, parameters) for o in OPTIONS if o.infotext and o.kind not in ("image", "mask")}
    assert same(web.run(web.p(), reference=picture, **pasted).c, first.c)
