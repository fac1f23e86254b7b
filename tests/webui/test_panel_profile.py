"""Profiles in the panel: chosen, said, and pasted with a picture's parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

from host_fixtures import WebUI
from infotexts import parsed
from panel_fixtures import Built
from sampling import FRONT, Studio

from zvl_ext.options import BY_NAME, OPTIONS
from zvl_ext.profiles import write_profile
from zvl_ext.webui import panel_file, run

pytest_plugins = ["host_fixtures", "panel_fixtures", "sampling"]

TOLD = {"image_model": "Z-<b>Image", "engine": "splice", "hidden_layer": -2, "pictures": 600, "weight": "1.5"}


@pytest.fixture
def folder(weights: Path) -> Path:
    """Two profiles: "soft" and "hard"."""
    made = weights / "profiles"
    made.mkdir()
    for name, log in (("soft", -1.0), ("hard", -3.0)):
        write_profile(str(made / f"{name}.safetensors"), [[log, 0.5]] * 3, [[0.0, log]], TOLD)
    return made


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is shown to the user."""
    lines: list[str] = []
    monkeypatch.setattr(panel_file.gr, "Warning", lines.append)
    return lines


def test_they_are_listed_by_name_and_none_is_chosen(folder: Path, built: Built) -> None:
    (folder / ".hidden.safetensors").write_bytes(b"")
    (folder / "notes.txt").write_text("x")
    control = built.controls["profile"]
    assert control.choices == [("None", ""), ("hard", "hard"), ("soft", "soft")]
    assert control.value == ""
    (folder / "third.safetensors").write_bytes((folder / "soft.safetensors").read_bytes())
    (event,) = [e for e in built.events(built.button("refresh_profiles"), "click") if control in e.outputs]
    update = event.fn("soft")
    assert [name for name, _ in update["choices"]] == ["None", "hard", "soft", "third"]
    assert update["value"] == "soft"
    assert event.fn("gone")["value"] == ""


def test_what_is_chosen_is_said(folder: Path, built: Built) -> None:
    (event,) = [e for e in built.events(built.controls["profile"], "change") if "zvl-file" in e.outputs[0].elem_classes]
    assert event.fn("") == ""
    assert event.fn("soft") == (
        "<p class='zvl-help'>Fitted for Z-&lt;b&gt;Image, on 600 pictures; read with engine splice, hidden layer -2; "
        "meant for weight 1.5.</p>"
    )
    (folder / "soft.safetensors").write_bytes(b"x")
    assert "can&#x27;t be read" in event.fn("soft")
    assert str(folder) not in event.fn("soft")


def test_it_is_grey_where_it_changes_nothing(built: Built) -> None:
    control = built.controls["profile"]
    (event,) = [e for e in built.events(built.controls["length_match"], "change") if control in e.outputs]
    names = [next(n for n, c in built.controls.items() if c is component) for component in event.inputs]
    for change, acts in (
        ({}, True),
        ({"length_match": "interpolate"}, False),
        ({"token_mode": "text"}, False),
        ({"conditioning": "x"}, False),
    ):
        values = {n: BY_NAME[n].default for n in names} | change
        updates = dict(zip(event.outputs, event.fn(*(values[n] for n in names))))
        assert updates[control]["interactive"] == acts, change


# --- pasting


@pytest.fixture
def parameters(web: WebUI, folder: Path, picture: Any) -> dict[str, Any]:
    """Of a picture with a profile, as the web UI reads them."""
    studio = Studio(web, picture)  # its image model
    p = studio.condition(studio.p(), **FRONT, weight=0.6, profile="soft")
    return parsed(web, p.extra_generation_params)


def test_pasting_chooses_it_and_makes_the_same_again(
    web: WebUI, built: Built, parameters: dict, warned: list[str]
) -> None:
    values = {o.name: o.default for o in OPTIONS} | built.pasted(parameters)
    assert values["profile"] == "soft"
    p = web.p()
    run.attach(p, [values[o.name] for o in OPTIONS])
    web.condition(p)
    assert parsed(web, p.extra_generation_params) == parameters
    assert warned == []


def test_it_is_found_by_its_digest_whatever_it_is_called(
    folder: Path, built: Built, parameters: dict, warned: list[str]
) -> None:
    soft, hard = folder / "soft.safetensors", folder / "hard.safetensors"
    soft.rename(folder / "gentle, as they say.safetensors")
    assert built.pasted(parameters)["profile"] == "gentle, as they say"
    hard.rename(soft)
    assert built.pasted(parameters)["profile"] == "gentle, as they say"
    assert warned == []


def test_one_that_is_not_there_is_said(folder: Path, built: Built, parameters: dict, warned: list[str]) -> None:
    soft, hard = folder / "soft.safetensors", folder / "hard.safetensors"
    for content, says in (
        (hard.read_bytes(), "the profile 'soft' is another one than that of these parameters. None is chosen."),
        (b"damaged", "the profile of these parameters can't be used. 'soft' can't be read as safetensors"),
        (None, "the profile of these parameters can't be used. There is no profile 'soft' in"),
    ):
        soft.unlink() if content is None else soft.write_bytes(content)
        assert built.pasted(parameters)["profile"] == ""
        assert says in warned[-1]
    assert len(warned) == 3


def test_pasting_another_picture_chooses_none_and_one_of_nothing_of_ours_leaves_it(
    web: WebUI, built: Built, picture: Any, warned: list[str]
) -> None:
    p = web.run(web.p(), reference=picture)
    assert built.pasted(parsed(web, p.extra_generation_params))["profile"] == ""
    assert "profile" not in built.pasted({"Steps": "8"})
    assert "profile" not in built.pasted({"ZVL": "0.3.0", "ZVL conditioning": "x 0123456789ab"})
    for value in ("", "soft", "../x 0123456789ab", " "):
        warned.clear()
        assert built.pasted({"ZVL": "0.3.0", "ZVL profile": value})["profile"] == ""
        assert len([line for line in warned if "profile" in line]) == 1
