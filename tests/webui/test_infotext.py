"""The picture's parameters: written when the effect has happened, read back as the settings that made it."""

from __future__ import annotations

import dataclasses
from typing import Any

import hosts  # noqa: F401  enters the web UI
import pytest
from host_fixtures import WebUI
from host_runs import same
from modules import infotext_utils, processing

from zvl_ext import __version__
from zvl_ext.options import CUSTOM, OPTIONS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import Reference, open_reference
from zvl_ext.webui import infotext, run

pytest_plugins = ["host_fixtures"]


def parsed(web: WebUI, entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The entries as a picture carries them, and as the web UI reads them off it."""
    p = web.p("a cat, a dog: both")
    p.setup_prompts()
    p.all_seeds = p.all_subseeds = [1]
    p.extra_generation_params = {**entries, **more}
    text = processing.create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds)
    return infotext_utils.parse_generation_parameters(text)


def own(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key.startswith("ZVL")}


@pytest.fixture(scope="session")
def opened(picture: Any) -> Reference:
    return open_reference(picture)


# --- when it is written


def test_nothing_is_claimed_before_the_conditioning_is_made(web: WebUI, picture: Any) -> None:
    p = web.p()
    run.attach(p, [{"enabled": True, "reference": picture}])
    assert not own(p.extra_generation_params)
    web.condition(p)
    assert own(p.extra_generation_params) == {
        "ZVL": __version__,
        "ZVL reference": open_reference(picture).digest[:12],
        "ZVL model": "tiny-vl",
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
    assert len(own(shared_dict)) == 6
    web.run(web.p(extra_generation_params=shared_dict), reference=picture)
    assert set(own(shared_dict)) == {"ZVL", "ZVL reference", "ZVL model"}
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
    "comma at the end,", ":", ",", "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("name", ["vl_prompt", "system_prompt"])
@pytest.mark.parametrize("text", NASTY, ids=lambda text: repr(text[:24]))
def test_every_text_comes_back(web: WebUI, opened: Reference, name: str, text: str) -> None:
    option = next(o for o in OPTIONS if o.name == name)
    parameters = parsed(web, infotext.write(dataclasses.replace(Settings(), **{name: text}), opened, "tiny-vl"))
    assert infotext.read(option, parameters) == text
    assert infotext.MARK in parameters
    assert parameters["Prompt"] == "a cat, a dog: both"


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
    return ["some text"]


WRITTEN = [o for o in OPTIONS if o.infotext and o.kind not in ("image", "model")]


@pytest.mark.parametrize("option", WRITTEN, ids=lambda o: o.name)
def test_every_option_comes_back(web: WebUI, opened: Reference, option: Any) -> None:
    for value in values_of(option):
        settings = dataclasses.replace(Settings(), **{option.name: value})
        parameters = parsed(web, infotext.write(settings, opened, "tiny-vl"))
        for other in WRITTEN:
            got = infotext.read(other, parameters)
            assert got == getattr(settings, other.name)
            assert type(got) is type(getattr(settings, other.name))


def test_all_options_at_once(web: WebUI, opened: Reference) -> None:
    settings = Settings(
        alpha=0.07,
        hidden_layer=-2,
        token_mode="all",
        scale_to_text=False,
        normalization="hybrid",
        outlier_repair="clamp",
        outlier_threshold=2.5,
        length_match="truncate",
        blend_mode="adain_per_dim",
        reference_tokens=576,
        vl_prompt='a, "b": c\n',
        system_prompt="512x512",
    )
    parameters = parsed(
        web, {"Before": 1, **infotext.write(settings, opened, "folder/model.safetensors")}, After="a, b"
    )
    assert {o.name: infotext.read(o, parameters) for o in WRITTEN} == {
        o.name: getattr(settings, o.name) for o in WRITTEN
    }
    assert parameters["ZVL model"] == "folder/model.safetensors"
    assert parameters["ZVL reference"] == opened.digest[:12]


@pytest.mark.parametrize("alpha", [1 / 3, 0.1234567, 1e-7, 0.1 + 0.2])
def test_a_number_off_the_sliders_steps_comes_back(web: WebUI, opened: Reference, alpha: float) -> None:
    """The API and the X/Y/Z plot send what they like; the picture must say what made it."""
    parameters = parsed(web, infotext.write(Settings(alpha=alpha), opened, "tiny-vl"))
    assert infotext.read(next(o for o in OPTIONS if o.name == "alpha"), parameters) == pytest.approx(alpha, rel=1e-9)


@pytest.mark.parametrize("model", [
    "tiny-vl", "sub folder/qwen3vl_4b_fp8_scaled.safetensors", "a, b", "it's: here", 'q"uote', "été", "-x",
    "512x512",
])  # fmt: skip
def test_the_models_name_comes_back(web: WebUI, opened: Reference, model: str) -> None:
    option = next(o for o in OPTIONS if o.name == "model")
    assert infotext.read(option, parsed(web, infotext.write(Settings(), opened, model))) == model


def test_defaults_are_left_out_and_read_as_defaults(web: WebUI, opened: Reference) -> None:
    entries = infotext.write(Settings(), opened, "tiny-vl")
    assert list(entries) == ["ZVL", "ZVL reference", "ZVL model"]
    parameters = parsed(web, entries)
    for option in WRITTEN:
        assert infotext.read(option, parameters) == option.default


def test_the_preset_is_the_one_that_the_settings_amount_to(web: WebUI, opened: Reference) -> None:
    for name, values in PRESETS.items():
        assert (
            infotext.preset(parsed(web, infotext.write(dataclasses.replace(Settings(), **values), opened, "tiny-vl")))
            == name
        )
    assert infotext.preset(parsed(web, infotext.write(Settings(alpha=0.31), opened, "tiny-vl"))) == CUSTOM


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
        ("ZVL scale", "yes"),
    ],
)
def test_a_value_that_is_none_leaves_its_control_alone(web: WebUI, key: str, value: str) -> None:
    parameters = parsed(web, {"ZVL": "9.9", key: value})
    option = next(o for o in OPTIONS if o.infotext == key)
    assert infotext.read(option, parameters) is None
    infotext.preset(parameters)


def test_the_written_settings_make_the_same_conditioning_again(web: WebUI, picture: Any) -> None:
    first = web.run(
        web.p(), reference=picture, alpha=0.55, token_mode="all", blend_mode="slerp", system_prompt="Look, then: answer"
    )
    parameters = parsed(web, own(first.extra_generation_params))
    pasted = {o.name: infotext.read(o, parameters) for o in OPTIONS if o.infotext and o.kind != "image"}
    assert same(web.run(web.p(), reference=picture, **pasted).c, first.c)
