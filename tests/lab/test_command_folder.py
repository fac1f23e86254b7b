"""`generate --references`: one picture for each picture of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Result, assert_refused, listing
from PIL import Image, ImageOps

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.lab import demo


@pytest.fixture
def given(tmp_path: Path, drawn: Any) -> Path:
    """A folder with three pictures, a damaged one, and what is none."""
    folder = tmp_path / "given"
    folder.mkdir()
    drawn.image.save(folder / "b.png")
    ImageOps.invert(drawn.image).save(folder / "a.jpg")
    drawn.image.rotate(90).save(folder / "no ending", "PNG")
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("none")
    (folder / ".hidden.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "inner.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture
def generate(weights: demo.Weights, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: Any) -> Callable:
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)

    def run(*more: object) -> Result:
        capfd.readouterr()
        code = main(["generate", "--prompt", "a large red heart", "--seed", "5", *map(str, more)])
        said = capfd.readouterr()
        return Result(code, said.out, said.err)

    return run


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_one_picture_for_each(generate: Callable, given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = generate("--references", given, "--out", out, "--set", "weight=0.8")
    assert done.code == 1
    assert listing(out) == {"a.png", "b.png", "no ending.png"}
    assert [Path(line.split(": seed")[0]).name for line in done.out.splitlines() if ": seed 5" in line] == [
        "a.png",
        "b.png",
        "no ending.png",
    ]
    (line,) = [line for line in done.err.splitlines() if "skipped" in line]
    assert "broken.png is skipped: " in line
    assert "Traceback" not in done.err
    single = tmp_path / "single.png"
    generate("--reference", given / "b.png", "--out", single, "--set", "weight=0.8")
    assert pixels(out / "b.png") == pixels(single)
    with Image.open(out / "a.png") as image:
        assert "ZVL weight: 0.8" in image.text["parameters"]


def test_pictures_that_are_there_are_kept(generate: Callable, given: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (given / "broken.png").unlink()
    out.mkdir()
    (out / "b.png").write_bytes(b"mine")
    done = generate("--references", given, "--out", out)
    assert done.code == 0, done.err
    assert (out / "b.png").read_bytes() == b"mine"
    assert "1 of 3 pictures were there already" in done.err
    first = (out / "a.png").stat().st_mtime_ns
    assert generate("--references", given, "--out", out).out == ""
    assert (out / "a.png").stat().st_mtime_ns == first
    done = generate("--references", given, "--out", out, "--force", "--json")
    assert len(done.out.splitlines()) == 3
    assert (out / "b.png").read_bytes() != b"mine"


def test_names_that_differ_in_their_ending_alone(generate: Callable, drawn: Any, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for name in ("one.png", "One.jpg", "one.png.png", "two.bmp"):
        drawn.image.save(folder / name)
    assert generate("--references", folder, "--out", tmp_path / "out").code == 0
    assert listing(tmp_path / "out") == {"one.png.png", "One.jpg.png", "one.png.png.png", "two.png"}


def test_folders_that_are_none(generate: Callable, given: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        ("nowhere", "out"): "can't be read as a folder",
        ("empty", "out"): "has no pictures in it",
        ("given/b.png", "out"): "can't be read as a folder",
        ("given", "given"): "must be another folder",
        ("given", "given/b.png"): "can't be a folder",
    }
    for (references, out), says in cases.items():
        assert_refused(generate("--references", tmp_path / references, "--out", tmp_path / out), says)
    assert_refused(generate("--references", given), "--out FOLDER")
    assert not (tmp_path / "out").exists()
