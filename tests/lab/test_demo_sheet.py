"""The demonstration's command: its contact sheet, over an untrained miniature, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.lab import demo, demo_sheet
from zvl_ext.lab.miniature import world
from zvl_ext.options import Settings

PROMPT = "a large red heart, on a white background"


@pytest.fixture
def command(weights_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with two columns; returns its exit code, what it printed, and the file it was to write."""
    few = tuple(dataclasses.replace(plan, changes=plan.changes[:2]) for plan in demo_sheet.PLANS)
    monkeypatch.setattr(demo_sheet, "PLANS", few)

    def run(*more: str) -> tuple[int, str, str, Path]:
        out = tmp_path / "sheet.png"
        capfd.readouterr()
        code = main(["demo", "--weights", str(weights_folder), "--steps", "1", "--out", str(out), *more])
        printed = capfd.readouterr()
        return code, printed.out, printed.err, out

    return run


def test_the_contact_sheet(command: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said, wrong, out = command()
    assert (code, wrong) == (0, "")
    assert str(out) in said
    assert "python -m zvl_ext demo --z-image FOLDER --qwen3-vl PATH" in said.splitlines()[-1]
    with Image.open(out) as sheet:
        assert sheet.width > demo_sheet.SIDE * 3
        assert sheet.height > demo_sheet.SIDE * (1 + len(demo_sheet.PLANS))
        assert len(sheet.getcolors(2**24)) > 100
    first = out.read_bytes()
    monkeypatch.setattr(demo_sheet, "open_weights", lambda args: weights)  # loaded by another test, and used already
    assert command()[3].read_bytes() == first, "the same command writes the same bytes"
    assert command("--seed", "5")[3].read_bytes() != first
    assert not [name for name in os.listdir(out.parent) if name != out.name]


def test_a_prompt_and_a_reference_of_ones_own(
    command: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo_sheet, "open_weights", lambda args: weights)
    picture = tmp_path / "own" / "reference.jpg"
    picture.parent.mkdir()
    Image.new("RGB", (300, 200), "orange").save(picture)
    code, _, _, out = command("--prompt", "something else", "--reference", str(picture))
    assert code == 0
    assert out.exists()


def test_each_picture_of_a_row_is_made_with_other_settings() -> None:
    for plan in demo_sheet.PLANS:
        made = {repr(Settings.from_mapping(plan.values).changed(change)) for _, change in plan.changes}
        assert len(made) == len(plan.changes), plan.title


def test_a_preset_s_row_is_made_with_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(demo_sheet, "plain_picture", lambda settings: asked.append(settings) or True)
    (plan,) = (plan for plan in demo_sheet.PLANS if plan.title == "Presets")
    for _, change in plan.changes:
        demo_sheet._conditioning(None, plan, change, None, "", 0)  # type: ignore[arg-type]  # asked for before they are
    for settings, (_, change) in zip(asked[1:], plan.changes[1:], strict=True):
        assert settings == Settings.from_mapping(change)


def test_the_same_command_with_other_weights(command: Any, weights_folder: Path, tmp_path: Path) -> None:
    """They are named as the real ones are, and measured by nobody."""
    reference = tmp_path / "own" / "reference.png"
    reference.parent.mkdir()
    Image.new("RGB", (64, 64), "teal").save(reference)
    named = [
        "--z-image",
        str(weights_folder / "z-image"),
        "--qwen3-vl",
        str(weights_folder / "qwen3-vl"),
        "--size",
        "64",
        "--device",
        "cpu",
    ]
    last = {"hidden_layer": -2}  # the miniature has no layer -8
    rows = tuple(
        dataclasses.replace(plan, changes=tuple((caption, change | last) for caption, change in plan.changes))
        for plan in demo_sheet.PLANS
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_sheet, "PLANS", rows)
        code, said, wrong, out = command(*named, "--prompt", PROMPT, "--reference", str(reference))
    assert (code, wrong) == (0, "")
    assert out.exists()
    assert "FOLDER" not in said


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--z-image", "nowhere"], "--qwen3-vl"),
        (["--qwen3-vl", "nowhere"], "--z-image"),
        (["--z-image", "nowhere", "--qwen3-vl", "nowhere"], "--prompt"),
        (
            ["--z-image", "nowhere", "--qwen3-vl", "nowhere", "--prompt", "x", "--reference", "nowhere.png"],
            "nowhere.png",
        ),
        (["--weights", "nowhere"], "nowhere"),
        (["--reference", "nowhere.png"], "nowhere.png"),
        (["--out", "nowhere/sheet.png"], "nowhere"),
        (["--size", "512"], "--size"),
        (["--size", "12"], "64 to 2048"),
        (["--steps", "0"], "1 to 100"),
        (["--steps", "many"], "1 to 100"),
        (["--seed", "x"], "--seed"),
        (["--seed", "-1"], "--seed"),
        (["--guidance", "31"], "0 to 30"),
        (["--guidance", "nan"], "--guidance"),
        (
            ["--z-image", "nowhere", "--qwen3-vl", "nowhere", "--prompt", "x", "--reference", "x", "--size", "100"],
            "multiple of 16",
        ),
        (["--device", "abacus"], "abacus"),
        (["--ui", "--port", "70000"], "65535"),
    ],
)
def test_bad_input_is_one_line(command: Any, more: list[str], says: str) -> None:
    code, said, wrong, out = command(*more)
    assert code == 2
    assert said == ""
    assert len(wrong.splitlines()) == 1
    assert wrong.startswith("zvl_ext: ")
    assert says in wrong
    assert not out.exists()


def test_damaged_weights_are_one_line(command: Any, weights_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    for name in ("z-image", "qwen3-vl"):
        (tmp_path / "damaged" / name).symlink_to(weights_folder / name)
    (tmp_path / "damaged" / "classifier.safetensors").write_bytes(b"nothing")
    code, _, wrong, _ = command("--weights", str(tmp_path / "damaged"))
    assert code == 2
    assert len(wrong.splitlines()) == 1
    assert "damaged" in wrong


def test_the_default_prompt_leaves_open_what_the_reference_shows() -> None:
    wanted = demo.named_in(demo.PROMPT)
    assert set(wanted) == {"shape"}
    assert demo.REFERENCE.held_out
    assert demo.REFERENCE.shape != wanted["shape"]


def test_a_sheet_that_is_stopped_half_way_is_kept(
    command: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_sheet, "open_weights", lambda args: weights)
    with Image.open(command()[3]) as sheet:
        height = sheet.height
    generate, calls = type(weights.model).generate, []

    def interrupted(self: Any, *args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return generate(self, *args, **more)

    monkeypatch.setattr(type(weights.model), "generate", interrupted)
    code, said, wrong, out = command()
    assert (code, wrong) == (0, "")
    assert "stopped half-way" in said
    with Image.open(out) as sheet:
        assert 3 * demo_sheet.SIDE < sheet.height < height - demo_sheet.SIDE


def test_what_is_refused_is_refused_before_the_first_picture(
    command: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_sheet, "open_weights", lambda args: weights)
    monkeypatch.setattr(type(weights.model), "generate", lambda *args, **more: pytest.fail("a picture was made"))
    code, _, wrong, out = command("--prompt", "word " * 230)
    assert code == 2
    assert "Shorten the prompt" in wrong
    assert not out.exists()


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("", {}),
        ("a cat on the mat", {}),
        ("A STAR, covered with stripes", {"shape": "star", "style": "striped"}),
        (
            "an orange moon against black, soft blurred light",
            {"shape": "moon", "colour": "orange", "background": "black", "style": "soft"},
        ),
        ("a starry night", {}),
    ],
)
def test_what_a_prompt_names(prompt: str, found: dict[str, str]) -> None:
    assert demo.named_in(prompt) == found


def test_every_caption_is_understood() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = world.random_scene(rng, None)
        assert demo.named_in(world.caption(scene, rng)) == {name: getattr(scene, name) for name in world.JUDGED}


def test_a_strip_is_its_pictures_in_a_row() -> None:
    from zvl_ext.lab.sheet import GAP, Cell, strip

    colours = ("#ff0000", "#00ff00", "#0000ff")
    made = strip([Cell(Image.new("RGB", (8, 8), colour), "one") for colour in colours], 40)
    assert made.width == 3 * (40 + GAP) + GAP
    middle = made.height - 8 - GAP // 2 - 20  # below the picture's own middle there are its lower half and the border
    for i, colour in enumerate(colours):
        x = GAP + i * (40 + GAP) + 20
        assert "#{:02x}{:02x}{:02x}".format(*made.getpixel((x, middle))) == colour
