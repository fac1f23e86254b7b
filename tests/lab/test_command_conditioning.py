"""`generate` with conditioning files: the same picture without any Qwen3-VL, and other weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Result, assert_refused
from PIL import Image, ImageOps

pytest.importorskip("diffusers")

import torch
from safetensors.torch import save_file

from zvl_ext.__main__ import main
from zvl_ext.conditioning_file import About, load, save
from zvl_ext.errors import ZvlError
from zvl_ext.hosts.standalone import ZImage
from zvl_ext.lab import demo

PROMPT = "a large red heart"


@pytest.fixture
def references(tmp_path: Path, drawn: Any) -> tuple[Path, Path]:
    drawn.image.save(tmp_path / "a.png")
    ImageOps.invert(drawn.image).save(tmp_path / "b.png")
    return tmp_path / "a.png", tmp_path / "b.png"


@pytest.fixture
def generate(weights: demo.Weights, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: Any) -> Callable:
    """Run the command over weights that are loaded once; gives what it said and the picture's pixels."""
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)
    monkeypatch.setitem(weights.sampling, "steps", 3)

    def run(*more: object, prompt: str | None = PROMPT) -> tuple[Result, bytes, str]:
        out = tmp_path / "picture.png"
        out.unlink(missing_ok=True)
        capfd.readouterr()
        named = [] if prompt is None else ["--prompt", prompt]
        code = main(["generate", *named, "--seed", "5", "--out", str(out), *map(str, more)])
        said = capfd.readouterr()
        if not out.exists():
            return Result(code, said.out, said.err), b"", ""
        with Image.open(out) as image:
            return Result(code, said.out, said.err), image.tobytes(), image.text["parameters"]

    return run


@pytest.fixture
def blind(weights: demo.Weights, monkeypatch: Any) -> Callable[[], None]:
    """From now on there is no Qwen3-VL."""
    return lambda: monkeypatch.setattr(weights.model, "_extractor", None)


WAYS = {
    "weighted": ["--set", "weight=0.6", "--set", "start=0.2", "--set", "curve=ease out"],
    "fewer tokens": ["--set", "image_dropout=0.5", "--set", "merge=2"],
    "mixed alone": ["--set", "preset=Research default", "--set", "end=0.5"],
    "plain": ["--set", "preset=Balanced"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_picture_without_qwen3_vl(
    generate: Callable, references: tuple, blind: Callable, tmp_path: Path, way: str
) -> None:
    file = tmp_path / "c.safetensors"
    done, wanted, parameters = generate("--reference", references[0], *WAYS[way], "--save-conditioning", file)
    assert done.code == 0, done.err
    blind()
    done, plain, _ = generate()
    assert plain != wanted
    done, got, again = generate("--conditioning", file, prompt=None)
    assert done.code == 0, done.err
    assert got == wanted
    assert again.startswith(PROMPT + "\n")
    assert f"ZVL conditioning: c {load(str(file)).digest[:12]}" in again
    assert load(str(file)).about.infotext == parameters


def test_two_references_with_regions(generate: Callable, references: tuple, blind: Callable, tmp_path: Path) -> None:
    file, (one, other) = tmp_path / "c.safetensors", references
    more = ["--set", "region=left", "--set", "region_2=right", "--set", "weight_2=0.4"]
    _, wanted, _ = generate("--reference", one, "--reference", other, *more, "--save-conditioning", file)
    _, lighter, _ = generate("--reference", one, "--reference", other, *more[:-1], "weight_2=1.3")
    blind()
    assert wanted != lighter
    assert generate("--conditioning", file)[1] == wanted
    _, got, parameters = generate("--conditioning", file, "--set", "weight_2=1.3")
    assert got == lighter, "as if it had been made with the other weight"
    assert "ZVL weight 2: 1.3" in parameters


def test_other_weights_of_a_file(generate: Callable, references: tuple, blind: Callable, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    generate("--reference", references[0], "--save-conditioning", file)
    _, wanted, _ = generate("--reference", references[0], "--set", "weight=0.5", "--set", "end=0.7")
    blind()
    _, plain, _ = generate()
    changed = tmp_path / "changed.safetensors"
    _, got, _ = generate(
        "--conditioning", file, "--set", "weight=0.5", "--set", "end=0.7", "--save-conditioning", changed
    )
    assert got == wanted
    assert generate("--conditioning", changed)[1] == wanted
    done, got, _ = generate("--conditioning", file, "--set", "weight=0")
    assert got == plain
    done, _, parameters = generate("--conditioning", file, "--set", "alpha=0.5", "--set", "weight_2=0.5")
    assert "Alpha changes nothing here: the file was made with its own." in done.out
    assert "the file has one reference in it" in done.out
    assert "ZVL alpha" not in parameters


def test_the_prompt_has_no_part_and_the_files_own_is_told(generate: Callable, blind: Callable, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    _, wanted, _ = generate("--save-conditioning", file)
    blind()
    done, got, parameters = generate("--conditioning", file, prompt="a small cross")
    assert got == wanted
    assert f"The prompt has no part in the picture: the conditioning has the rows of its own: {PROMPT!r}." in done.out
    assert parameters.startswith(PROMPT + "\n")
    done, _, _ = generate("--conditioning", file, "--json")
    assert json.loads(done.out)["notes"] == []


def test_a_file_of_another_image_model_is_said(generate: Callable, tmp_path: Path) -> None:
    file = str(tmp_path / "c.safetensors")
    generate("--save-conditioning", file)
    save(load(file).conditioning, file, About(PROMPT, "Another"))
    done, _, _ = generate("--conditioning", file)
    assert "The conditioning was made for Another; with Z-Image miniature the picture may differ." in done.out


@pytest.mark.parametrize(("shape", "says"), [((5, 8), "8 wide, the image model takes"), ((4000, 0), "4000 tokens")])
def test_a_file_that_does_not_fit_the_image_model(
    generate: Callable, weights: demo.Weights, tmp_path: Path, shape: tuple[int, int], says: str
) -> None:
    file = tmp_path / "c.safetensors"
    save_file({"hidden_states": torch.randn(shape[0], shape[1] or weights.model.hidden)}, file)
    done, _, parameters = generate("--conditioning", file)
    assert_refused(done, says, "another")
    assert parameters == ""


def test_blocks_that_the_image_model_lacks(generate: Callable, references: tuple, tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    generate("--reference", references[0], "--save-conditioning", file)
    done, _, parameters = generate("--conditioning", file, "--set", "blocks=0-1, 200-210")
    assert_refused(done, "There is no block 200")
    assert parameters == ""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--conditioning", "FILE", "--references", "."], "leave out --references"),
        (["--conditioning", "FILE", "--reference", "REF"], "leave out --reference"),
        (["--references", ".", "--reference", "REF"], "leave out --reference"),
        (["--references", ".", "--out", "x", "--save-conditioning", "FILE"], "--reference instead"),
        (["--reference", "REF", "--save-conditioning", "nowhere/x"], "--save-conditioning nowhere/x"),
        (["--reference", "REF", "--set", "negative=true", "--save-conditioning", "FILE"], "negative"),
        (["--force"], "--force is for --references"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    generate: Callable, references: tuple, tmp_path: Path, more: list[str], says: str
) -> None:
    names = {"REF": str(references[0]), "FILE": str(tmp_path / "c.safetensors")}
    done, _, _ = generate(*(names.get(word, word) for word in more))
    assert_refused(done, says)
    assert not (tmp_path / "c.safetensors").exists()


def test_a_prompt_is_needed_without_a_file(generate: Callable) -> None:
    assert_refused(generate(prompt=None)[0], "--prompt")


def test_an_image_model_without_qwen3_vl(
    weights: demo.Weights, weights_folder: Path, references: tuple, tmp_path: Path
) -> None:
    """The prompt alone makes the same rows; a reference is refused in a line."""
    model = ZImage(str(weights_folder / "z-image"), "", "cpu")
    assert model.dtype == weights.model.dtype
    assert torch.equal(model.text(PROMPT).embeddings, weights.model.text(PROMPT).embeddings)
    with pytest.raises(ZvlError, match="--qwen3-vl"):
        model.extractor  # noqa: B018
    model.unload()


def test_the_panels_name_for_a_file_is_no_file_here(generate: Callable, references: tuple) -> None:
    done, _, _ = generate("--reference", references[0], "--set", "conditioning=c")
    assert_refused(done, "--conditioning FILE")
