"""`generate` and `encode`: a picture, and text embeddings, from the command line, over an untrained miniature."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Result, assert_refused, metadata, states
from miniature import write_profile
from PIL import Image
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.lab import demo
from zvl_ext.profiles import read_profile

PROMPT = "a large red heart"
INSERTED = ("--set", "preset=Balanced", "--set", "weight=0.8")


@pytest.fixture
def generate(
    weights: demo.Weights, weights_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: Any
) -> Callable[..., tuple[Result, Path]]:
    """Run the command over weights that are loaded once; gives what it said, and where its picture was to go."""
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)

    def run(*more: object) -> tuple[Result, Path]:
        out = tmp_path / "picture.png"
        capfd.readouterr()
        code = main(["generate", "--prompt", PROMPT, "--seed", "5", "--out", str(out), *map(str, more)])
        said = capfd.readouterr()
        return Result(code, said.out, said.err), out

    return run


@pytest.fixture
def reference_file(tmp_path: Path, drawn: Any) -> Path:
    path = tmp_path / "reference.png"
    drawn.image.save(path)
    return path


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.tobytes()


def test_a_picture_with_its_parameters(generate: Callable, reference_file: Path) -> None:
    done, out = generate()
    assert done.code == 0, done.err
    assert "seed 5" in done.out
    plain = pixels(out)
    with Image.open(out) as image:
        assert image.text["parameters"].startswith(PROMPT + "\nSteps: 1, ")
        assert "ZVL" not in image.text["parameters"]
    done, out = generate("--reference", reference_file, "--set", "weight=0.7", "--set", "image-dropout=0.5")
    assert done.code == 0, done.err
    assert pixels(out) != plain
    with Image.open(out) as image:
        assert "ZVL weight: 0.7" in image.text["parameters"]
        assert "ZVL dropout: 0.5" in image.text["parameters"]
    assert [name for name in os.listdir(out.parent) if name.startswith("picture")] == [out.name]


@pytest.mark.parametrize("nothing", ["weight=0", "alpha=0", "end=0", "blocks=all:0"])
def test_a_weight_of_0_is_the_plain_picture_and_says_why(
    generate: Callable, reference_file: Path, nothing: str
) -> None:
    _, out = generate()
    plain = pixels(out)
    done, out = generate("--reference", reference_file, "--set", nothing)
    assert pixels(out) == plain
    assert "The picture is as without a reference, because" in done.out


def test_one_line_of_json(generate: Callable, reference_file: Path) -> None:
    done, out = generate("--reference", reference_file, "--json")
    (line,) = done.out.splitlines()
    said = json.loads(line)
    assert set(said) == {"out", "seed", "settings", "infotext", "tokens", "seconds", "notes"}
    assert (said["out"], said["seed"]) == (str(out), 5)
    assert said["settings"]["ZVL preset"] == "Balanced"
    assert said["infotext"].endswith(f"ZVL miniature layer: {said['settings']['ZVL miniature layer']}")
    assert said["tokens"] > 32  # the block fills at least that
    with Image.open(out) as image:
        assert image.text["parameters"] == said["infotext"]


def test_a_setting_that_changes_nothing_is_said(generate: Callable, reference_file: Path) -> None:
    done, _ = generate("--reference", reference_file, "--set", "preset=Research default", "--set", "image_dropout=0.5")
    assert "Image dropout changes nothing here: it needs a token mode with image tokens." in done.out


def test_a_conditioning_takes_the_prompts_place(generate: Callable, weights: demo.Weights, tmp_path: Path) -> None:
    _, out = generate()
    plain = pixels(out)
    rows = weights.model.text(PROMPT).embeddings
    save_file({"hidden_states": rows}, tmp_path / "same.safetensors")
    save_file({"hidden_states": rows.flip(0).contiguous()}, tmp_path / "other.safetensors")
    _, out = generate("--conditioning", tmp_path / "same.safetensors")
    assert pixels(out) == plain
    _, out = generate("--conditioning", tmp_path / "other.safetensors")
    assert pixels(out) != plain


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--reference", "nowhere.png"], "nowhere.png"),
        (["--set", "weight=0.5"], "--reference FILE"),
        (["--reference", "REF", "--set", "wight=0.5"], "did you mean weight?"),
        (["--reference", "REF", "--set", "weight"], "NAME=VALUE"),
        (["--reference", "REF", "--set", "weight=much"], "weight"),
        (["--reference", "REF", "--set", "weight=3"], "0 to 2"),
        (["--reference", "REF", "--set", "scale_to_text=perhaps"], "true or false"),
        (["--reference", "REF", "--set", "blocks=first"], "blocks must be"),
        (["--reference", "REF", "--set", "reference=x"], "NAME=VALUE"),
        (["--reference", "REF", "--conditioning", "c.safetensors"], "leave out --reference"),
        (["--conditioning", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--out", "nowhere/picture.png"], "nowhere"),
        (["--z-image", "folder"], "--qwen3-vl"),
        (["--size", "512"], "--size"),
    ],
)
def test_bad_input_is_one_line(generate: Callable, reference_file: Path, more: list[str], says: str) -> None:
    done, out = generate(*(str(reference_file) if word == "REF" else word for word in more))
    assert_refused(done, says)
    assert not out.exists()


# --- encode


@pytest.fixture
def encode(tmp_path: Path, capfd: pytest.CaptureFixture) -> Callable[..., tuple[Result, Path]]:
    def run(*more: object, prompt: str = PROMPT) -> tuple[Result, Path]:
        out = tmp_path / "T.safetensors"
        capfd.readouterr()
        code = main(["encode", "--prompt", prompt, "--dtype", "float32", "--out", str(out), *map(str, more)])
        said = capfd.readouterr()
        return Result(code, said.out, said.err), out

    return run


def test_encode_writes_what_the_image_model_is_conditioned_on(
    encode: Callable, weights: demo.Weights, weights_folder: Path
) -> None:
    want = weights.model.text(PROMPT).embeddings
    z_image = weights_folder / "z-image"
    file, tokens = z_image / "text_encoder" / "model.safetensors", z_image / "tokenizer"
    for named in ((z_image,), (z_image / "text_encoder", "--tokenizer", tokens), (file, "--tokenizer", tokens)):
        done, out = encode("--text-encoder", *named)
        assert done.code == 0, done.err
        got = states(out)
        assert got.dtype == torch.float32
        assert np.abs((got - want).numpy()).max() <= 1e-3 * want.abs().max(), named
        assert {key: metadata(out)[key] for key in ("prompt", "layer", "tokens")} == {
            "prompt": PROMPT,
            "layer": "-2",
            "tokens": "text",
        }


def test_what_is_no_text_encoder_is_one_line(encode: Callable, weights_folder: Path, tmp_path: Path) -> None:
    z_image = weights_folder / "z-image"
    tokens = z_image / "tokenizer"
    stored = load_file(z_image / "text_encoder" / "model.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.safetensors").write_bytes(b"nothing")
    save_file({"x": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    part = {key: value for key, value in stored.items() if "layers.1.mlp" not in key}
    save_file(part, tmp_path / "part.safetensors")
    eight = {key: value.to(torch.float8_e4m3fn) for key, value in stored.items()}
    save_file(eight, tmp_path / "eight.safetensors")
    save_file(stored | {"model.layers.999999999.mlp.up_proj.weight": torch.zeros(0)}, tmp_path / "many.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text('{"model_type": "qwen3", "num_hidden_layers": 1000000000}')
    cases = {
        "nowhere": "there is nothing",
        "many.safetensors": "999999999.mlp.up_proj.weight is not part of a Qwen3",
        "pipe.safetensors": "it is a pipe",
        "other": "is not a Qwen3 text encoder: it is a llama",
        "deep": "hidden_size is missing",
        "empty": "can't be loaded",
        "noise.safetensors": "can't be read",
        "other.safetensors": "it has no tensor",
        "part.safetensors": "is not a Qwen3 text encoder",
        "eight.safetensors": "eight bits",
    }
    for name, says in cases.items():
        done, out = encode("--text-encoder", tmp_path / name, "--tokenizer", tokens)
        assert_refused(done, says)
        assert not out.exists()
    done, _ = encode("--text-encoder", z_image / "text_encoder" / "model.safetensors")
    assert_refused(done, "tokenizer.json")
    done, _ = encode("--text-encoder", z_image, prompt="half \ud83d")
    assert_refused(done, "not UTF-8")


# --- profiles


def test_a_file_or_one_that_is_shipped(
    generate: Callable,
    reference_file: Path,
    shipped: Path,
    tmp_path: Path,
) -> None:
    ours = write_profile(tmp_path, "ours")
    pictures = {}
    for named in ("", ours, "soft", "hard"):
        more = ["--set", f"profile={named}"] if named else []
        done, out = generate("--reference", reference_file, "--steps", 2, *INSERTED, *more, "--json")
        assert done.code == 0, done.err
        pictures[named] = pixels(out)
        written = json.loads(done.out)["settings"].get("ZVL profile", "")
        assert written.startswith("ours " if named == ours else named)
        assert bool(written) == bool(named)
        assert os.sep not in written
        assert not named or written.endswith(read_profile(ours).digest[:12]) == (named != "hard")
    assert pictures["soft"] == pictures[ours]
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize(
    ("blocks", "told", "says"),
    [
        (
            7,
            {},
            "The profile 'bad' is for an image model with 7 blocks of 4 heads (1 for the caption), and this one has 6",
        ),
        (6, {"width": 3840}, "whose rows are 3840 wide, and this one's are 120"),
        (0, {}, "it is not there"),
    ],
)
def test_what_does_not_fit_is_one_line(
    generate: Callable,
    reference_file: Path,
    tmp_path: Path,
    blocks: int,
    told: dict,
    says: str,
) -> None:
    path = write_profile(tmp_path, "bad", blocks=blocks, **told) if blocks else str(tmp_path / "none")
    done, out = generate("--reference", reference_file, *INSERTED, "--set", f"profile={path}")
    assert_refused(done, says)
    assert not out.exists()


def test_one_that_changes_nothing_or_was_fitted_for_something_else_is_said(
    generate: Callable,
    reference_file: Path,
    tmp_path: Path,
) -> None:
    path = write_profile(tmp_path, "mine", engine="blend", merge=3)
    done, _ = generate("--reference", reference_file, "--steps", 1, *INSERTED, "--set", f"profile={path}")
    assert "The profile 'mine' was fitted with engine blend, merge 3 (here: splice, 2)" in done.out
    done, _ = generate(
        "--reference", reference_file, "--steps", 1, "--set", "preset=Research default", "--set", f"profile={path}"
    )
    assert "Profile changes nothing here: it acts on inserted tokens" in done.out
