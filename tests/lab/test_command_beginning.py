"""`generate` with a picture to begin from, over an untrained miniature: diffusers' own img2img; nothing where off."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from diffusers import ZImageImg2ImgPipeline

from zvl_ext import __main__ as command_line
from zvl_ext.beginning import Beginning
from zvl_ext.conditioning import Conditioning
from zvl_ext.errors import ZvlError
from zvl_ext.hosts.standalone_beginning import steps_from
from zvl_ext.lab import demo
from zvl_ext.reference import Reference

STEPS, SEED = 4, 5
SIZE = (80, 80)


@pytest.fixture
def generate(weights: demo.Weights, tmp_path: Path, drawn: Reference, capsys: Any, monkeypatch: Any) -> Any:
    """Run the command with settings; gives what it said, its picture, and the pictures that the VAE has encoded."""
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)
    monkeypatch.setitem(weights.sampling, "steps", STEPS)
    vae, seen = weights.model.pipeline.vae, []
    encode = vae.encode
    monkeypatch.setattr(vae, "encode", lambda image: seen.append(image) or encode(image))
    file, out = tmp_path / "reference.png", tmp_path / "picture.png"
    drawn.image.save(file)

    def run(*settings: str) -> tuple[str, Image.Image, list]:
        seen.clear()
        named = [argument for each in settings for argument in ("--set", each)]
        command = [
            "generate",
            "--prompt",
            "a red heart",
            "--seed",
            str(SEED),
            "--reference",
            file,
            "--out",
            out,
            *named,
        ]
        assert command_line.main(list(map(str, command))) == 0
        with Image.open(out) as image:
            image.load()
        return capsys.readouterr().out, image, list(seen)

    return run


def test_it_is_diffusers_own_img2img(generate: Any, weights: demo.Weights, drawn: Reference) -> None:
    _, image, seen = generate("denoising_strength=0.5")
    assert [each.shape for each in seen] == [(1, 3, 80, 80)]
    assert "ZVL denoising strength: 0.5" in image.text["parameters"]
    _, plain, _ = generate()
    assert image.tobytes() != plain.tobytes()


def test_rows_alone_give_the_picture_that_diffusers_gives(weights: demo.Weights, drawn: Reference) -> None:
    rows = weights.model.text("a red heart").embeddings
    pipeline = ZImageImg2ImgPipeline(**weights.model.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        (want,) = pipeline(
            prompt_embeds=[rows],
            image=drawn.image,
            strength=0.5,
            generator=[torch.Generator().manual_seed(SEED)],
            num_inference_steps=STEPS,
            guidance_scale=0.0,
        ).images
    beginning, done = Beginning(drawn, 0.5), []

    def made(seeds: list[int], batch: int) -> list[Image.Image]:
        rest = {"batch": batch, "on_step": lambda *steps: done.append(steps), "beginning": beginning}
        return weights.model.generate([Conditioning(rows)] * len(seeds), seeds, SIZE, STEPS, **rest)

    first, second = made([SEED, SEED + 1], 1)
    assert first.tobytes() == want.tobytes()
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for one, other in zip(made([SEED, SEED + 1], 2), (first, second)):  # a batch rounds otherwise
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1


def test_off_nothing_is_encoded(generate: Any) -> None:
    _, image, seen = generate("denoising_strength=1")
    assert not seen
    assert "denoising" not in image.text["parameters"]


def test_a_strength_of_all_steps_is_said_and_changes_nothing(generate: Any) -> None:
    said, image, seen = generate("denoising_strength=0.8")
    _, plain, _ = generate()
    assert image.tobytes() == plain.tobytes()
    assert image.text == plain.text
    assert (
        "Denoising strength 0.8 is all of 4 steps, so the picture began from noise alone. Choose 0.74 or less" in said
    )
    assert not seen
    assert generate("denoising_strength=0.74")[2]


def test_with_weight_0_the_picture_is_the_plain_one(generate: Any) -> None:
    _, image, seen = generate("denoising_strength=0.5", "weight=0")
    _, plain, _ = generate("alpha=0")
    assert image.tobytes() == plain.tobytes()
    assert not seen


@pytest.mark.parametrize("steps", range(1, 30))
def test_what_is_advised_begins_from_the_picture(steps: int, drawn: Reference) -> None:
    line = Beginning(drawn, 0.99).too_late(steps)
    if steps == 1:
        assert "Choose more steps" in line
        return
    most = float(line.partition("Choose ")[2].partition(" or less")[0])
    for strength, begins in ((most, True), (round(most + 0.02, 2), False)):
        assert (steps_from(steps, strength) < steps) == begins
        assert (int(strength * steps) + 1 < steps) == begins  # as the web UI counts them


def test_an_old_diffusers_is_told(weights: demo.Weights, drawn: Reference, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", types.ModuleType("diffusers"))
    rows = weights.model.text("a red heart").embeddings
    with pytest.raises(ZvlError, match="Update it, or set denoising_strength to 1"):
        weights.model.generate([rows], [SEED], SIZE, STEPS, beginning=Beginning(drawn, 0.5))


@pytest.mark.parametrize(
    ("size", "stretched"), [((160, 80), False), ((80, 80), True), ((100, 51), False), ((1000, 480), True)]
)
def test_another_shape_is_said(size: tuple[int, int], stretched: bool) -> None:
    reference = Reference(Image.new("RGB", (200, 100)), "")
    beginning = Beginning(reference, 0.5)
    assert bool(beginning.stretched(size)) == stretched
    assert beginning.at(size).size == size
