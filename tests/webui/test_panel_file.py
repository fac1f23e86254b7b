"""Conditioning files in the panel: chosen, said, saved, and pasted with a picture's parameters."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest
import torch

pytest.importorskip("gradio")

from host_fixtures import WebUI
from infotexts import parsed
from panel_fixtures import Built, elem_id
from sampling import Studio

from zvl_ext.conditioning import Part, joined
from zvl_ext.conditioning_file import About, load, save
from zvl_ext.hosts import forge_files
from zvl_ext.options import BY_NAME, OPTIONS
from zvl_ext.webui import panel, panel_file, run
from zvl_ext.webui.host import WebUI as PanelHost
from zvl_ext.webui.kept import KEEPER, Made
from zvl_ext.weighting import WEIGHTING, Weighting

pytest_plugins = ["host_fixtures", "panel_fixtures", "sampling"]

WEIGHTS = (Weighting(0.7, 0.1, 0.9, "ease in", "late"), Weighting(0.4))


def conditioning(*weightings: Weighting) -> Any:
    rows = torch.randn(9, 64, generator=torch.Generator().manual_seed(1))
    parts = tuple(Part(weighting, block=rows[:3] * n) for n, weighting in enumerate(weightings, 1))
    return joined(rows, parts, 3, torch.float32)


@pytest.fixture
def folder(weights: Path) -> Path:
    """Two files: "twice" of two references, and "once" of one."""
    made = weights / "conditionings"
    made.mkdir()
    about = About("a <b>cat</b>", "zimage", "splice, tiny-vl")
    save(conditioning(*WEIGHTS), str(made / "twice.safetensors"), about)
    save(conditioning(Weighting()), str(made / "once.safetensors"), About("a dog"))
    return made


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is shown to the user."""
    lines: list[str] = []
    for name in ("Warning", "Info"):
        monkeypatch.setattr(panel_file.gr, name, lines.append)
    return lines


def call(built: Built, component: Any, event: str, output: str, *values: Any) -> dict[str, Any]:
    """What an event puts into the controls, by their names; untouched ones are missing."""
    wanted = built.controls.get(output) or next(b for b in built.page.blocks.values() if b.elem_id == elem_id(output))
    (found,) = [each for each in built.events(component, event) if wanted in each.outputs]
    results = found.fn(*values)
    results = results if isinstance(results, (list, tuple)) else [results]
    names = [next((n for n, c in built.controls.items() if c is each), each.elem_id) for each in found.outputs]
    return {
        name: each["value"] if isinstance(each, dict) else each
        for name, each in zip(names, results)
        if not isinstance(each, dict) or "value" in each
    }


def test_files_are_listed_by_name_and_none_is_chosen(folder: Path, built: Built) -> None:
    (folder / ".hidden.safetensors").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    control = built.controls["conditioning"]
    assert control.choices == [("None", ""), ("once", "once"), ("twice", "twice")]
    assert control.value == ""
    (folder / "third.safetensors").write_bytes((folder / "once.safetensors").read_bytes())
    (event,) = [e for e in built.events(built.button("refresh_files"), "click") if control in e.outputs]
    update = event.fn("twice")
    assert update["choices"] == [("None", ""), ("once", "once"), ("third", "third"), ("twice", "twice")]
    assert update["value"] == "twice"
    assert event.fn("gone")["value"] == ""


def test_choosing_one_sets_what_it_weighs(folder: Path, built: Built) -> None:
    values = call(built, built.controls["conditioning"], "input", "weight", "twice")
    assert values == {name: getattr(WEIGHTS[0], name) for name in WEIGHTING} | {
        f"{name}_2": getattr(WEIGHTS[1], name) for name in WEIGHTING
    }
    assert call(built, built.controls["conditioning"], "input", "weight", "") == {}


def test_what_is_chosen_is_said(folder: Path, built: Built) -> None:
    chosen = built.controls["conditioning"]
    (said,) = call(built, chosen, "change", "file", "twice").values()
    assert "no Qwen3-VL, no reference. Its prompt: a &lt;b&gt;cat&lt;/b&gt;. Read with splice, tiny-vl." in said
    assert call(built, chosen, "change", "file", "") == {elem_id("file"): ""}
    (folder / "once.safetensors").write_bytes(b"x")
    (said,) = call(built, chosen, "change", "file", "once").values()
    assert "can&#x27;t be read" in said
    assert str(folder) not in said


def test_with_a_file_only_what_it_weighs_can_be_moved(built: Built) -> None:
    chosen = built.controls["conditioning"]
    (event,) = [e for e in built.events(chosen, "change") if built.controls["merge"] in e.outputs]
    names = [next(n for n, control in built.controls.items() if control is component) for component in event.inputs]
    for name, acts in (("x", False), ("", True)):
        values = {n: BY_NAME[n].default for n in names} | {"conditioning": name}
        updates = dict(zip(event.outputs, event.fn(*(values[n] for n in names))))
        for option in ("engine", "hidden_layer", "alpha", "model", "region_3", "crop"):
            assert updates[built.controls[option]]["interactive"] == acts, option
        for option in ("weight", "weight_2", "start", "curve_4", "blocks"):
            assert updates[built.controls[option]]["interactive"], option
        assert updates[built.controls["weight"]]["visible"]
        assert built.controls["reference"] not in updates, "so that it can be taken out"


def test_nothing_is_said_of_what_reading_would_cost(built: Built) -> None:
    for line in (panel._cost, functools.partial(panel._memory, PanelHost())):
        names = panel.COST_OPTIONS if line is panel._cost else panel.MEMORY_OPTIONS
        values = {name: BY_NAME[name].default for name in names}
        assert line(*values.values())
        assert line(*(values | {"conditioning": "x"}).values()) == ""


# --- saving


def test_the_button_saves_the_last_picture_and_lists_it(weights: Path, built: Built, warned: list[str]) -> None:
    KEEPER.last = Made(conditioning(*WEIGHTS), About("a cat"))
    name = next(b for b in built.page.blocks.values() if b.elem_id == elem_id("save_name"))
    (event,) = [e for e in built.events(built.button("save"), "click") if name in e.outputs]
    chosen, cleared = event.fn("my/cat")
    assert (chosen["choices"], cleared["value"]) == ([("None", ""), ("my_cat", "my_cat")], "")
    assert warned == ["Z-Image VL: saved as 'my_cat'. It can be chosen under Conditioning file."]
    assert load(str(weights / "conditionings" / "my_cat.safetensors")).weights["weight_2"] == 0.4
    event.fn("my/cat")
    event.fn("")
    KEEPER.forget()
    event.fn("again")
    assert [line.split(".")[0].split(":", 1)[1] for line in warned[1:]] == [
        " There is a conditioning file 'my_cat' already",
        " Type a name for the conditioning file first",
        " There is nothing to save: no reference had a part in the last picture",
    ]


def test_what_speaks_to_the_user_goes_through_gradios_queue(built: Built) -> None:
    """Without it, gradio shows neither warnings nor news."""
    saves = built.events(built.button("save"), "click")
    chooses = built.events(built.controls["conditioning"], "input")
    assert [event.queue for event in (*saves, *chooses)] == [True, True]


# --- pasting


@pytest.fixture
def parameters(web: WebUI, folder: Path) -> dict[str, Any]:
    """Of a picture from a file, as the web UI reads them."""
    Studio(web, None)  # its image model
    p = web.p("a <b>cat</b>")
    run.attach(p, [{"conditioning": "twice", "weight_2": 0.9}])
    web.condition(p)
    return parsed(web, p.extra_generation_params)


def test_pasting_chooses_the_file_with_its_weights(built: Built, parameters: dict, warned: list[str]) -> None:
    values = built.pasted(parameters)
    assert values.pop("conditioning") == "twice"
    assert values.pop("enabled") is True
    images = {o.name for o in OPTIONS if o.kind in ("image", "mask")}
    assert {name: values.pop(name) for name in images} == dict.fromkeys(images)
    named = {n: v for n, v in values.items() if v != BY_NAME[n].default or BY_NAME[n].unit < 2}
    assert named == {name: getattr(WEIGHTS[0], name) for name in WEIGHTING} | {"weight_2": 0.9}
    assert {BY_NAME[name].first for name in values} == set(WEIGHTING), "all else stays as it is"
    assert warned == []


def test_pasting_what_is_not_there_or_another_one_says_so(
    folder: Path, built: Built, parameters: dict, warned: list[str]
) -> None:
    file = folder / "twice.safetensors"
    good = file.read_bytes()
    for content, says in (
        ((folder / "once.safetensors").read_bytes(), "'twice' is another one than that of these parameters"),
        (b"damaged", "'twice' can't be read as safetensors"),
        (None, "There is no conditioning file 'twice'"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        assert built.pasted(parameters)["conditioning"] == ""
        assert says in warned[-1]
        assert warned[-1].startswith("Z-Image VL: ")
        assert warned[-1].endswith("None is chosen.")
    assert len(warned) == 3
    file.write_bytes(good)
    assert built.pasted(parameters)["conditioning"] == "twice"


@pytest.mark.parametrize("value", ["", "twice", "../x 0123456789ab", "twice zz", " "])
def test_pasting_what_names_no_file(folder: Path, built: Built, warned: list[str], value: str) -> None:
    assert built.pasted({"ZVL": "0.3.0", "ZVL conditioning": value})["conditioning"] == ""
    assert len(warned) == 1


def test_pasting_a_picture_of_a_reference_chooses_no_file(web: WebUI, built: Built, picture: Any) -> None:
    p = web.run(web.p(), reference=picture)
    values = built.pasted(parsed(web, p.extra_generation_params))
    assert values["conditioning"] == ""
    assert values["reference"] is not None
    assert "conditioning" not in built.pasted({"Steps": "8"})


def test_a_pasted_picture_is_made_again(web: WebUI, built: Built, parameters: dict) -> None:
    values = {o.name: o.default for o in OPTIONS} | built.pasted(parameters)
    p = web.p("a <b>cat</b>")
    run.attach(p, [values[o.name] for o in OPTIONS])
    web.condition(p)
    assert parsed(web, p.extra_generation_params) == parameters
    assert forge_files.conditioning_paths()
