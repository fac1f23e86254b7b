"""Pasting a picture's parameters into the panel."""

from __future__ import annotations

from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest
import tiny

pytest.importorskip("gradio")

from gradio.data_classes import FileData
from host_fixtures import WebUI
from infotexts import parsed
from modules import infotext_utils
from panel_fixtures import Built

from zvl_ext import conditioner
from zvl_ext.declaration import FILES
from zvl_ext.options import BY_NAME, CUSTOM, OPTIONS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import open_reference
from zvl_ext.webui import infotext, run
from zvl_ext.webui.kept import KEEPER

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
    """The parameters of a picture in which nothing is as published."""
    p = web.run(web.p(), reference=picture, **UNUSUAL)
    pairs = ", ".join(f"{key}: {infotext_utils.quote(value)}" for key, value in p.extra_generation_params.items())
    return infotext_utils.parse_generation_parameters(
        f"a cat\nSteps: 8, Sampler: Euler, CFG scale: 1, {pairs}, Version: x"
    )


def test_pasting_sets_every_control(built: Built, made: dict[str, Any], picture: Any) -> None:
    values = built.pasted(made)
    assert values.pop("reference").tobytes() == picture.tobytes()
    expected = {"enabled": True, "model": "tiny-vl", "preset": CUSTOM, **UNUSUAL}
    # Two controls for one thing: the panel shows one.
    assert (expected.pop("scale_to_text"), expected.pop("normalization")) == (False, "per_dim")
    assert (values["scale_to_text"], values["normalization"]) == (True, "none")
    assert expected.items() <= values.items()
    untouched = {o.name for o in OPTIONS} - set(values) - {"reference"}
    assert untouched <= {o.name for o in OPTIONS if not o.infotext}
    assert not [name for name, value in values.items() if BY_NAME[name].kind in ("image", "mask") and value is not None]


@pytest.mark.parametrize("preset", PRESETS)
def test_pasting_a_presets_picture_sets_every_control_to_the_preset(built: Built, picture: Any, preset: str) -> None:
    settings = Settings.from_mapping({"preset": preset})
    values = built.pasted(infotext.write(settings, {"reference": open_reference(picture).digest}, "tiny-vl"))
    for option in OPTIONS:
        if option.infotext and option.kind not in FILES:
            assert values[option.name] == getattr(settings, option.name)
    # What the panel names when its controls have changed.
    inputs = built.events(built.controls["alpha"], "change")[0].inputs
    order = [next(n for n, control in built.controls.items() if control is component) for component in inputs]
    (event,) = [e for e in built.events(built.controls["alpha"], "change") if built.controls["preset"] in e.outputs]
    assert values["preset"] == preset == event.fn(*[values[name] for name in order])


def test_the_buttons_that_send_to_another_tab_take_everything_along(web: WebUI) -> None:
    """They pair fields of two tabs whose names are equal and known to the script."""
    here, there = Built(), Built()
    sent = [(component, name) for component, name in here.fields if name in [str(name) for _, name in there.fields]]
    assert {component._id for component, _ in sent} == {component._id for component in here.components}
    assert [name for _, name in sent] == [name for _, name in there.fields]
    assert len({str(name) for _, name in sent}) == len(OPTIONS)
    upload = here.controls["reference"].preprocess(FileData(path="/upload/a.png", orig_name="a.png"))
    assert there.controls["reference"].postprocess(upload).path == "/upload/a.png"


def test_pasting_another_picture_switches_off_and_touches_nothing_else(built: Built) -> None:
    assert built.pasted({"Prompt": "a cat", "Steps": "8"}) == {"enabled": False}


def test_pasting_what_is_not_here_any_more(built: Built, made: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="Z-Image VL") as said:  # what gradio makes of it where there is no page
        values = built.pasted({**made, "ZVL model": "another", "ZVL reference": "0123456789ab", "ZVL alpha": "much"})
    assert not values.keys() & {"model", "alpha"}
    assert values["reference"] is None, "never another picture than the one that is named"
    assert values["enabled"] is True
    lines = [str(warning.message) for warning in said]
    assert sum("0123456789ab" in line for line in lines) == sum("'another'" in line for line in lines) == 1
    assert all(line.startswith("Z-Image VL: ") for line in lines)


def test_pasting_after_a_restart_brings_the_reference_back(built: Built, made: dict[str, Any], picture: Any) -> None:
    KEEPER.recent._kept.clear()  # what a restart forgets
    assert built.pasted(made)["reference"].tobytes() == picture.tobytes()
    KEEPER.forget()
    with pytest.warns(UserWarning, match="not kept here"):
        assert built.pasted(made)["reference"] is None


def parameters_of(web: WebUI, **named: Any) -> dict[str, Any]:
    """The parameters of a picture with these settings, without making it."""
    p = web.p()
    run.attach(p, [{"enabled": True, **named}])
    made = run.current(p)
    made.begin()
    return parsed(web, infotext.write(made.settings, conditioner.digests(made.units), "tiny-vl"))


def test_pasting_brings_all_references_and_masks_back(
    web: WebUI, built: Built, picture: Any, other_picture: Any
) -> None:
    mask, third = tiny.picture(32, 32, seed=7), tiny.picture(64, 32, seed=8)
    parameters = parameters_of(
        web,
        references=[
            {"image": picture, "weight": 1.0, "region": "left"},
            {"image": other_picture, "weight": 0.3, "region_mask": mask, "crop": "centre"},
            {"image": third, "reference_mask": mask, "blocks": "late"},
        ],
    )
    values = built.pasted(parameters)
    for name, image in {"reference": picture, "reference_2": other_picture, "reference_3": third,
                        "region_mask_2": mask, "reference_mask_3": mask}.items():  # fmt: skip
        assert values[name].tobytes() == image.tobytes(), name
    assert all(values[name] is None for name in ("reference_4", "reference_mask", "region_mask", "region_mask_3"))
    assert (values["weight"], values["weight_2"], values["weight_3"]) == (1.0, 0.3, 0.6)
    assert (values["region"], values["crop_2"], values["blocks_3"]) == ("left", "centre", "late")
    KEEPER.forget()
    with pytest.warns(UserWarning, match="Z-Image VL") as said:
        values = built.pasted(parameters)
    lines = [str(warning.message) for warning in said]
    assert all(values[name] is None for name in values if BY_NAME[name].kind in ("image", "mask"))
    for what in ("reference image ", "reference image 2 ", "region mask 2 ", "reference mask 3 "):
        assert len([line for line in lines if f"the {what}" in line and "not kept here" in line]) >= 1, what
    assert len(lines) == 5


def test_parameters_of_a_second_reference_alone_leave_the_first_empty(
    web: WebUI, built: Built, picture: Any, recwarn: Any
) -> None:
    values = built.pasted(parameters_of(web, reference_2=picture))
    assert values["reference"] is None
    assert values["reference_2"].tobytes() == picture.tobytes()
    assert not [warning for warning in recwarn if "not kept here" in str(warning.message)]


def test_parameters_without_a_reference_do_not_keep_another(built: Built, made: dict[str, Any]) -> None:
    del made["ZVL reference"]
    with pytest.warns(UserWarning, match="Z-Image VL: the reference"):
        assert built.pasted(made)["reference"] is None


def test_the_webuis_own_paste_understands_the_fields(built: Built, made: dict[str, Any]) -> None:
    for field in built.fields:
        assert isinstance(field, infotext_utils.PasteField)
        assert field.function is not None or field.label is not None
