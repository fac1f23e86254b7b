"""The standalone image pipeline, the contact sheet and the page, over an untrained miniature."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

from zvl_ext.__main__ import main
from zvl_ext.lab import demo
from zvl_ext.lab.miniature import family, world
from zvl_ext.options import OPTIONS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import Reference, open_reference

PROMPT = "a large red heart, on a white background"
SAMPLING = {"size": (32, 32), "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import miniature

    return miniature.save_untrained(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("weights"))


def arguments(weights_folder: Path, **more: Any) -> argparse.Namespace:
    given = {
        "z_image": None,
        "qwen3_vl": None,
        "weights": str(weights_folder),
        "size": None,
        "steps": 1,
        "guidance": None,
        "device": "cpu",
    }
    return argparse.Namespace(**given | more)


@pytest.fixture(scope="session")
def weights(weights_folder: Path) -> demo.Weights:
    return demo.open_weights(arguments(weights_folder))


@pytest.fixture(scope="session")
def drawn() -> Reference:
    return open_reference(Image.fromarray(world.draw(demo.REFERENCE, 0)))


# --- Z-Image without a web UI


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_text_embeddings_are_the_pipelines_own(weights: demo.Weights, weights_folder: Path, prompt: str) -> None:
    from transformers import Qwen2TokenizerFast

    pipeline = weights.model.pipeline
    tokenizer = Qwen2TokenizerFast.from_pretrained(str(weights_folder / "z-image" / "tokenizer"))
    pipeline.tokenizer = lambda *args, **kwargs: tokenizer(*args, **kwargs)
    # Of the chat template diffusers asks for more than these tiny tokenizers have: thinking switched on changes nothing
    # in it.
    pipeline.tokenizer.apply_chat_template = tokenizer.apply_chat_template
    try:
        (expected,), _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    finally:
        pipeline.tokenizer = None
    torch.testing.assert_close(weights.model.text(prompt).embeddings, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_alpha_0_is_the_plain_picture_to_the_last_bit(weights: demo.Weights, drawn: Reference, preset: str) -> None:
    settings = weights.fitted(Settings.from_mapping({"preset": preset, "alpha": 0.0}))
    model = weights.model
    conditionings = [model.text(PROMPT).embeddings, model.condition(settings, drawn, PROMPT, 7)]
    plain, conditioned = (model.generate([each], [7], **SAMPLING)[0] for each in conditionings)
    assert torch.equal(*conditionings)
    assert plain.tobytes() == conditioned.tobytes()


@pytest.mark.parametrize("preset", ["Research default", "Splice: faithful"])
def test_a_reference_changes_the_conditioning(weights: demo.Weights, drawn: Reference, preset: str) -> None:
    settings = weights.fitted(Settings.from_mapping({"preset": preset}))
    conditioning, plain = weights.model.condition(settings, drawn, PROMPT), weights.model.text(PROMPT).embeddings
    assert conditioning.isfinite().all()
    assert conditioning.shape != plain.shape or not torch.equal(conditioning, plain)


def test_a_picture_does_not_depend_on_its_batch(weights: demo.Weights, drawn: Reference) -> None:
    """Conditionings of different lengths among them: shorter ones are padded."""
    model = weights.model
    spliced = weights.fitted(Settings.from_mapping({"preset": "Splice: faithful"}))
    conditionings = [
        model.text(PROMPT).embeddings,
        model.condition(spliced, drawn, PROMPT),
        model.text("a ring").embeddings,
    ]
    seeds = [1, 2, 3]
    alone = model.generate(conditionings, seeds, **SAMPLING)
    together = model.generate(conditionings, seeds, **SAMPLING, batch=3)
    assert len({picture.tobytes() for picture in alone}) == 3
    for one, other in zip(alone, together):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1  # of 255: sums of another order


def test_the_negative_prompt_is_what_guidance_goes_away_from(weights: demo.Weights) -> None:
    text = [weights.model.text(PROMPT).embeddings]

    def made(**more: Any) -> bytes:
        return weights.model.generate(text, [1], **SAMPLING | more)[0].tobytes()

    assert made() == made(negative="")
    assert made() != made(negative="a small blue ring")
    assert made(guidance=0.0) == made(guidance=0.0, negative="a small blue ring")


def test_what_is_freed_is_loaded_again(weights: demo.Weights, drawn: Reference) -> None:
    settings = weights.fitted(Settings.from_mapping({"preset": "Research default"}))
    before = weights.model.condition(settings, drawn, "a moon")
    weights.model.unload()
    weights.model.store.clear()
    assert torch.equal(weights.model.condition(settings, drawn, "a moon"), before)


# --- layers


@pytest.mark.parametrize("layer", [*range(-36, 0)])
def test_the_real_models_layers_are_their_own_at_the_same_depth(layer: int) -> None:
    assert family.layer_at_same_depth(layer, 36) == layer


def test_the_miniature_takes_presets_at_the_same_depth(weights: demo.Weights) -> None:
    layers = {layer: weights.fitted(Settings(hidden_layer=layer)).hidden_layer for layer in (-1, -2, -8, -12, -36)}
    assert layers == {-1: -1, -2: -2, -8: -3, -12: -3, -36: -8}
    assert weights.fitted(Settings(reference_tokens=576)).reference_tokens == family.GRID**2


# --- the contact sheet


@pytest.fixture
def command(weights_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with two columns; returns its exit code, what it printed, and the file it was to write."""
    monkeypatch.setattr(demo, "ALPHAS", (0.5, 1.0))

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
        assert sheet.width > demo.SIDE * 3
        assert sheet.height > demo.SIDE * (1 + len(demo.ROWS))
        assert len(sheet.getcolors(2**24)) > 100
    first = out.read_bytes()
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)  # loaded by another test, and used already
    assert command()[3].read_bytes() == first, "the same command writes the same bytes"
    assert command("--seed", "5")[3].read_bytes() != first
    assert not [name for name in os.listdir(out.parent) if name != out.name]


def test_a_prompt_and_a_reference_of_ones_own(
    command: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "open_weights", lambda args: weights)
    picture = tmp_path / "own" / "reference.jpg"
    picture.parent.mkdir()
    Image.new("RGB", (300, 200), "orange").save(picture)
    code, _, _, out = command("--prompt", "something else", "--reference", str(picture))
    assert code == 0
    assert out.exists()


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
    rows = tuple((title, values | {"hidden_layer": -2}) for title, values in demo.ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "ROWS", rows)  # the miniature has no layer -8
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


def test_the_default_pair_is_new_to_the_models_and_contradicts_itself() -> None:
    wanted = demo.named_in(demo.PROMPT)
    assert set(wanted) == set(world.JUDGED)
    assert world.Scene(**wanted).held_out
    assert demo.REFERENCE.held_out
    assert all(getattr(demo.REFERENCE, name) != value for name, value in wanted.items())


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


# --- the page


@pytest.fixture
def page() -> Any:
    pytest.importorskip("gradio")
    from zvl_ext.webui import page

    return page


OPTION = {option.name: i for i, option in enumerate(OPTIONS)}


def values(**named: Any) -> list[Any]:
    made = [option.default for option in OPTIONS]
    for name, value in named.items():
        made[OPTION[name]] = value
    return made


def test_the_page_has_the_web_uis_accordion(page: Any, weights: demo.Weights) -> None:
    built = page.build(weights)
    generate = next(fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS))
    accordion = generate.inputs[-len(OPTIONS) :]
    for option, component in zip(OPTIONS, accordion):
        assert component.label == (page.TITLE if option.name == "enabled" else option.label)
        assert component.elem_id.startswith(f"zvl_txt2img_{option.name}")
    assert Settings.from_positions([c.value for c in accordion]) == Settings(model="qwen3-vl")
    assert "fonts.googleapis" not in str(built.get_config_file())


def test_the_page_says_what_memory_its_own_weights_take(page: Any, weights: demo.Weights) -> None:
    host, checkpoint = page.PageHost(weights), weights.model.extractor.checkpoint
    tower, every = (4 * checkpoint.count(prefix) for prefix in ("visual.", ""))  # float32
    room = 2**28 + 25 * 2**19  # of the 256 tokens the miniature takes 25
    assert host.memory(Settings(engine="splice")).needed == tower + room
    assert tower + room < host.memory(Settings()).needed < every + room
    line = next(
        block.value for block in page.build(weights).blocks.values() if "zvl-memory" in (block.elem_classes or [])
    )
    assert line == "<p class='zvl-help'>Qwen3-VL takes about 0.3 GiB while it reads the reference.</p>"


def test_the_page_forgets_what_its_model_has_kept(
    page: Any, weights: demo.Weights, drawn: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(page.gr, "Info", said.append)
    page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image))
    kept = weights.model.store.size
    assert kept > 0
    built = page.build(weights)
    button = next(block for block in built.blocks.values() if block.elem_id == "zvl_txt2img_forget")
    next(fn for fn in built.fns.values() if (button._id, "click") in fn.targets).fn()
    assert weights.model.store.size == 0
    assert said == [f"Z-Image VL: what was kept of references is forgotten ({kept / 2**20:.1f} MiB)."]
    assert page.PageHost(weights).forget() == 0


def test_what_the_command_line_names_is_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    built = page.build(weights, PROMPT, 7, drawn)
    image = next(block for block in built.blocks.values() if block.elem_id == "zvl_txt2img_reference")
    assert image.value
    assert {PROMPT, 7} <= {
        block.value for block in built.blocks.values() if getattr(block, "label", "") in ("Prompt", "Seed")
    }


def test_generating_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    plain, parameters, notes = page.generate(weights, PROMPT, "", 5, 1, 2.0, 2, *values())
    assert [re.search(r"Seed: (\d+)", text)[1] for text in parameters] == ["5", "6"]
    assert not any("ZVL" in text for text in parameters)
    assert notes == []
    mixed, parameters, notes = page.generate(
        weights, PROMPT, "a ring: small", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image)
    )
    assert mixed[0].tobytes() != plain[0].tobytes()
    assert f"ZVL reference: {drawn.digest[:12]}" in parameters[0]
    assert "ZVL miniature layer: -3" in parameters[0]
    assert "ZVL miniature size" not in parameters[0]
    assert "Negative prompt: a ring: small" in parameters[0].splitlines()
    assert any("-3 of 8 (as deep as -8 of 36)" in line for line in notes)


def test_a_large_reference_is_reduced_and_the_page_says_so(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    large = drawn.image.resize((320, 320))
    _, parameters, notes = page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, reference=large))
    assert "ZVL miniature size: 25" in parameters[0]
    assert any("reduced from 256 to 25 tokens" in line for line in notes)


def test_switched_off_or_at_alpha_0_the_page_makes_the_plain_picture(
    page: Any, weights: demo.Weights, drawn: Reference
) -> None:
    made = [
        page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(**named))
        for named in (
            {},
            {"reference": drawn.image},
            {"enabled": True},
            {"enabled": True, "reference": drawn.image, "alpha": 0.0},
        )
    ]
    assert len({pictures[0].tobytes() for pictures, _, _ in made}) == 1
    assert not any("ZVL" in parameters[0] for _, parameters, _ in made)
    assert [bool(notes) for _, _, notes in made] == [False, False, True, False]


def test_a_seed_of_ones_own_or_another_one_every_time(page: Any, weights: demo.Weights) -> None:
    seeds = {
        re.search(r"Seed: (\d+)", page.generate(weights, "", "", -1, 1, 0.0, 1, *values())[1][0])[1] for _ in range(3)
    }
    assert len(seeds) > 1


def test_what_is_wrong_is_one_line_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    built = page.build(weights)
    generate = next(fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS))
    pictures, every, parameters, said = generate.fn(
        "word " * 600, "", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image, token_mode="all")
    )
    assert (pictures, every, parameters) == ([], [], "")
    assert "zvl-error" in said
    assert "Shorten the prompt" in said
    said = generate.fn(PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, alpha=7))[3]
    assert "alpha must be a number from 0 to 1, not 7" in said
