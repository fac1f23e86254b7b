"""What goes wrong stops the run with one line."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import tiny
from host_fixtures import WebUI
from host_runs import BARE, DOG, hooks, positions, same

from zvl_ext.errors import ZvlError
from zvl_ext.webui import run

pytest_plugins = ["host_fixtures"]

REFUSED = {
    "not a picture": ({"reference": base64.b64encode(b"not a picture").decode()}, "not a picture"),
    "not base64": ({"reference": "/etc/hostname.png"}, "not base64"),
    "an address": ({"reference": "http://127.0.0.1/a.png"}, "addresses are not fetched"),
    "a number for a picture": ({"reference": 5}, "expected a picture"),
    "an unknown option": ({"alhpa": 0.3}, "did you mean alpha"),
    "a text for a number": ({"alpha": "0.3"}, "alpha must be a number from 0 to 1"),
    "out of range": ({"alpha": 1.5}, "alpha must be a number from 0 to 1"),
    "not a number": ({"alpha": float("nan")}, "alpha must be a number"),
    "an unknown choice": ({"token_mode": "words"}, "token_mode must be one of text, image"),
    "a switch that is none": ({"scale_to_text": "False"}, "scale_to_text must be true or false"),
    "a layer that is not there": ({"hidden_layer": -36}, "Hidden layer -36 does not exist"),
    "an unknown model": ({"model": "../tiny-vl"}, "There is no Qwen3-VL model '../tiny-vl'; there is tiny-vl"),
    "an unknown preset": ({"preset": "Best"}, "preset must be one of"),
}


@pytest.mark.parametrize(("named", "says"), REFUSED.values(), ids=REFUSED)
def test_bad_input_in_the_panel(web: WebUI, picture: Any, refused: Any, named: dict, says: str) -> None:
    plain = web.plain(DOG)
    p = web.p()
    with refused(says):
        web.run(p, **{"reference": picture, **named})
    assert not any(key.startswith("ZVL") for key in p.extra_generation_params)
    assert same(web.run(web.p(DOG), False).c, plain.c)


@pytest.mark.parametrize(
    ("named", "says"), [*REFUSED.values(), ({"reference": None}, "without a reference")], ids=[*REFUSED, "no reference"]
)
def test_bad_input_over_the_api_is_the_callers_error(web: WebUI, picture: Any, named: dict, says: str) -> None:
    fastapi = pytest.importorskip("fastapi")
    with pytest.raises(fastapi.HTTPException) as caught:
        web.run(web.p(api=True), **{"reference": picture, **named})
    # The web UI makes its reply of the exception's attributes.
    assert vars(caught.value)["status_code"] == 422
    assert says in vars(caught.value)["detail"] == str(caught.value)
    assert "\n" not in caught.value.detail


def test_no_reference_in_the_panel_makes_the_picture_without_and_says_so(web: WebUI) -> None:
    plain = web.plain()
    p = web.run(web.p(), *positions(reference=None))
    assert p.c is plain.c
    assert any("no reference image" in comment for comment in p.comments)
    assert not p.extra_generation_params


@pytest.mark.parametrize(
    "args",
    [
        (),
        (None,),
        ("on",),
        (1,),
        (True, 5),
        ({1: 2},),
        ({"enabled": 1},),
        (object(),),
        (True, "blend", [1]),
        ({"reference": [{}], "enabled": True},),
        (1,) * 50,
    ],
)
def test_attach_never_raises_because_the_web_ui_would_swallow_it(web: WebUI, args: tuple) -> None:
    p = web.p()
    run.attach(p, args)
    if hooks(p):
        with pytest.raises(ZvlError):
            web.condition(p)
    else:
        assert not args


def test_no_weights(web: WebUI, picture: Any, refused: Any) -> None:
    (web.weights / "tiny-vl").unlink()
    with refused("No Qwen3-VL weights were found.*qwen3_vl"):
        web.run(web.p(), reference=picture)
    with refused("No Qwen3-VL weights were found"):
        web.run(web.p(), reference=picture, model="tiny-vl")


def test_weights_that_appear_are_found_without_a_restart(
    web: WebUI, picture: Any, refused: Any, vl_folder: Path
) -> None:
    (web.weights / "tiny-vl").unlink()
    with refused("No Qwen3-VL weights"):
        web.run(web.p(), reference=picture)
    (web.weights / "later").symlink_to(vl_folder)
    p = web.run(web.p(), reference=picture)
    assert p.extra_generation_params["ZVL model"] == "later"


def test_broken_weights(web: WebUI, picture: Any, refused: Any, vl_folder: Path) -> None:
    whole = (vl_folder / "model.safetensors").read_bytes()
    (web.weights / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (web.weights / "empty.safetensors").write_bytes(b"")
    for name in ("cut.safetensors", "empty.safetensors"):
        with refused(f"^{name} is not a whole safetensors file"):
            web.run(web.p(), reference=picture, model=name)
    assert web.events.count("load") == 0
    web.run(web.p(), reference=picture, model="tiny-vl")


def test_weights_with_a_tensor_missing(web: WebUI, picture: Any, refused: Any, vl_model: Any) -> None:
    state = tiny.inner_state(vl_model)
    del state["language_model.layers.3.mlp.up_proj.weight"]
    tiny.save_single(state, web.weights / "gap.safetensors", metadata=tiny.config_metadata(vl_model.config))
    with refused("gap.safetensors: the tensor language_model.layers.3.mlp.up_proj.weight is missing"):
        web.run(web.p(), reference=picture, model="gap.safetensors")
    web.run(web.p(), reference=picture, model="tiny-vl")


def test_a_model_of_another_width(web: WebUI, make_engine: Any, picture: Any, refused: Any) -> None:
    web.use(make_engine(hidden=32))
    with refused("tiny-vl: this model is 64 wide, the image model's text encoder 32"):
        web.run(web.p(), reference=picture, **BARE)
    assert web.events.count("load") == 0, "the width is known without loading"
