"""Projections in the panel: listed, said, grey for engine splice, and found again by their digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest
import torch

pytest.importorskip("gradio")

from host_fixtures import WebUI
from infotexts import parsed
from panel_fixtures import Built

from zvl_ext.options import BY_NAME, OPTIONS
from zvl_ext.projections import Affine, write_projection
from zvl_ext.webui import run

pytest_plugins = ["host_fixtures", "panel_fixtures"]

TOLD = {"image_model": "Z-<b>Image", "model": "Qwen3-VL-2B", "texts": "900", "pictures": "0"}


@pytest.fixture
def folder(weights: Path) -> Path:
    """Two projections of the tiny model's own width: "a" and "b"."""
    made = weights / "projections"
    made.mkdir()
    for name, size in (("a", 1.0), ("b", 0.5)):
        maps = {layer: Affine(size * torch.eye(64), torch.zeros(64)) for layer in (-8, -2)}
        write_projection(str(made / f"{name}.safetensors"), maps, torch.zeros(64), TOLD)
    return made


def test_they_are_listed_none_is_chosen_and_what_is_chosen_is_said(folder: Path, built: Built) -> None:
    control = built.controls["projection"]
    assert control.choices == [("None", ""), ("a", "a"), ("b", "b")]
    assert control.value == ""
    assert list(BY_NAME)[-1] == "projection"
    (event,) = [e for e in built.events(control, "change") if "zvl-file" in e.outputs[0].elem_classes]
    assert event.fn("a") == (
        "<p class='zvl-help'>From Qwen3-VL-2B (64 wide) to Z-&lt;b&gt;Image (64 wide); hidden layers -8, -2; on 900 "
        "texts.</p>"
    )
    assert event.fn("") == ""
    (folder / "a.safetensors").write_bytes(b"x")
    assert "can&#x27;t be read" in event.fn("a")


def test_it_is_grey_with_engine_splice(built: Built) -> None:
    control = built.controls["projection"]
    (event,) = [e for e in built.events(built.controls["engine"], "change") if control in e.outputs]
    names = [next(n for n, c in built.controls.items() if c is component) for component in event.inputs]
    for engine, acts in (("blend", True), ("splice", False)):
        values = {n: BY_NAME[n].default for n in names} | {"engine": engine}
        updates = dict(zip(event.outputs, event.fn(*(values[n] for n in names))))
        assert updates[control]["interactive"] == acts


def test_pasting_finds_it_by_its_digest_and_makes_the_same_again(
    web: WebUI, folder: Path, built: Built, picture: Any
) -> None:
    p = web.run(web.p(), reference=picture, engine="blend", hidden_layer=-8, projection="b")
    parameters = parsed(web, p.extra_generation_params)
    (folder / "b.safetensors").rename(folder / "c, renamed.safetensors")
    values = {o.name: o.default for o in OPTIONS} | built.pasted(parameters)
    assert values["projection"] == "c, renamed"
    again = web.p()
    run.attach(again, [values[o.name] for o in OPTIONS])
    web.condition(again)
    assert parsed(web, again.extra_generation_params)["ZVL projection"] == "c, renamed " + parameters[
        "ZVL projection"
    ].removeprefix("b ")
