"""`generate` at alpha 1: the text encoder is not even loaded, and the picture is the same to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from zvl_ext import __main__ as command_line
from zvl_ext.hosts import standalone
from zvl_ext.lab import demo
from zvl_ext.lab.miniature import family
from zvl_ext.reference import Reference

ALONE = ("engine=blend", "alpha=1", "scale_to_text=false", "token_mode=image", "length_match=interpolate")


@pytest.fixture
def generate(weights_folder: Path, tmp_path: Path, drawn: Reference, capsys: Any, monkeypatch: Any) -> Any:
    """Run the command over models that are loaded anew; gives what it said, the picture, and what was loaded."""
    loaded: list[str] = []
    load = standalone.from_folder
    monkeypatch.setattr(standalone, "from_folder", lambda folder, dtype: loaded.append(folder) or load(folder, dtype))
    made: list[demo.Weights] = []

    def opened(args: Any) -> demo.Weights:
        sampling = {**family.SAMPLING, "steps": 1, "guidance": args.guidance or 0.0}
        made.append(demo.Weights(family.load(str(weights_folder), "cpu"), "miniature", sampling, None))
        return made[-1]

    monkeypatch.setattr(demo, "open_weights", opened)
    file, out = tmp_path / "reference.png", tmp_path / "picture.png"
    drawn.image.save(file)

    def run(*more: object) -> tuple[str, bytes, list[str]]:
        loaded.clear()
        settings = [word for each in ALONE for word in ("--set", each)]
        given = ["--prompt", "a red heart", "--seed", 5, "--reference", file, "--out", out, *settings, *more]
        assert command_line.main(["generate", *map(str, given)]) == 0
        return capsys.readouterr().out, out.read_bytes(), list(loaded)

    return run


def test_the_text_encoder_is_not_loaded_and_the_picture_is_the_same(generate: Any, monkeypatch: Any) -> None:
    said, picture, loaded = generate()
    assert not loaded
    assert "Qwen3-VL alone made this: the text encoder (" in said
    monkeypatch.setattr(standalone, "makes_alone", lambda settings: False)
    said, again, loaded = generate()
    assert len(loaded) == 1
    assert again == picture
    assert "alone" not in said


def test_guidance_needs_it_for_the_negative_prompt(generate: Any) -> None:
    said, _, loaded = generate("--guidance", 2)
    assert len(loaded) == 1
    assert "alone" not in said


def test_a_file_of_the_conditioning_has_the_prompts_own_rows(generate: Any, tmp_path: Path) -> None:
    _, picture, loaded = generate("--save-conditioning", tmp_path / "c.safetensors")
    assert len(loaded) == 1
    assert generate()[1] == picture


def test_where_something_of_it_is_needed_it_is_loaded(generate: Any) -> None:
    assert len(generate("--set", "alpha=0.9")[2]) == 1
