"""Every stage of the miniature family's training, for a moment each: the script that made the shipped weights keeps
running."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from safetensors.torch import load_file

from zvl_ext.lab.miniature import family, world
from zvl_ext.lab.training import __main__ as command
from zvl_ext.lab.training import language, loop, pictures, publish, restore, vision_language

MOMENT = 0.005  # minutes


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which every stage has run for a moment, in order."""
    folder = str(tmp_path_factory.mktemp("work"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "PICTURES", 60)
        patch.setattr(pictures, "POOL", 20)
        patch.setattr(loop, "LOGGED", 1)
        for stage in command.STAGES.values():
            torch.manual_seed(0)
            stage(folder, MOMENT)
        yield folder


@pytest.mark.parametrize("stage", command.STAGES)
def test_a_stage_trains_and_leaves_its_state_and_its_curve(work, stage):
    state = load_file(f"{work}/{stage}.safetensors")
    assert state["step"] >= 1
    moved = [
        key
        for key, value in state.items()
        if key.startswith("model.") and not torch.equal(value, state["average." + key.removeprefix("model.")])
    ]
    assert moved, "the weights have not moved away from their average"
    with open(f"{work}/{stage}.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert all(value == value and abs(value) < 1e6 for line in lines for value in line.values())


def test_a_stopped_stage_goes_on_where_it_was(work):
    before = load_file(f"{work}/vision.safetensors")
    vision_language.train_vision(work, 0.0)
    unchanged = load_file(f"{work}/vision.safetensors")
    assert unchanged["step"] == before["step"]
    assert all(torch.equal(value, before[key]) for key, value in unchanged.items())
    vision_language.train_vision(work, MOMENT)
    assert load_file(f"{work}/vision.safetensors")["step"] > before["step"]


def test_what_is_published_is_the_average_and_loads(work, tmp_path):
    publish.publish(work, str(tmp_path), command.STAGES)
    model = family.load(str(tmp_path))
    average = load_file(f"{work}/transformer.safetensors")["average.cap_embedder.1.weight"]
    assert torch.equal(model.pipeline.transformer.cap_embedder[1].weight, average.bfloat16().float())
    seen = model.extractor.checkpoint
    assert (seen.layers, seen.hidden_size, seen.unit) == (family.LAYERS, family.HIDDEN, family.PATCH * family.MERGE)
    assert set(json.loads((tmp_path / "training.json").read_text())) == set(command.STAGES)


def test_a_published_folder_becomes_the_state_that_it_was_made_of(work, tmp_path, monkeypatch):
    monkeypatch.setattr(restore, "STEPS", 2)
    published, again = str(tmp_path / "published"), tmp_path / "again"
    publish.publish(work, published, command.STAGES)
    again.mkdir()
    restore.restore(published, str(again))
    for stage in command.STAGES:
        before, after = load_file(f"{work}/{stage}.safetensors"), load_file(again / f"{stage}.safetensors")
        assert after["step"] == before["step"]
        assert json.loads((again / f"{stage}.jsonl").read_text().splitlines()[-1])["restored"]
    same = ["vae", "classifier", "qwen3_vl", "transformer", "adapter"]
    for stage in same:
        before, after = load_file(f"{work}/{stage}.safetensors"), load_file(again / f"{stage}.safetensors")
        names = [name for name in after if name.startswith("average.")]
        assert all(torch.equal(after[name], before[name].bfloat16().float()) for name in names)
    vision_language.train_alignment(str(again), MOMENT)  # and a stage goes on from there
    publish.publish(str(again), str(tmp_path / "twice"), command.STAGES)
    assert "restored" in (tmp_path / "twice" / "training.json").read_text()


def test_image_tokens_read_as_text_have_the_words_positions_and_nothing_from_deepstack(work):
    tokenizer = language.tokenizer_of(work)
    special = language.special_ids(tokenizer)
    model = family.qwen3_vl(special).eval()
    inputs, _ = vision_language.vision_batch(tokenizer, np.random.default_rng(0), 1, special)
    usual = list(model.model.visual.deepstack_visual_indexes)
    with torch.no_grad(), vision_language.read_as_text(model, inputs) as changed:
        read = model(**changed).logits
        embeds = model.model.get_input_embeddings()(inputs["input_ids"])
        seen = vision_tokens(model, inputs)
        embeds[inputs["input_ids"] == special["<|image_pad|>"]] = seen
        alone = model.model.language_model(inputs_embeds=embeds).last_hidden_state
    assert list(model.model.visual.deepstack_visual_indexes) == usual
    assert not torch.equal(inputs["position_ids"], changed["position_ids"])
    assert torch.allclose(read, model.lm_head(alone), atol=1e-4)


def vision_tokens(model, inputs):
    """The tower's image tokens; transformers 4 gives them with DeepStack's in a tuple, transformers 5 as an object."""
    output = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    return output[0] if isinstance(output, tuple) else output.pooler_output


def test_a_missing_stage_is_named(tmp_path):
    with pytest.raises(SystemExit, match="Run the stage text_encoder first"):
        vision_language.train_vision(str(tmp_path), MOMENT)


def test_what_a_patch_shows_is_named_where_it_is(work):
    tokenizer = language.tokenizer_of(work)
    scene = world.Scene("circle", "red", "navy", "flat", "large", "centre")
    shown = vision_language.named_patches(tokenizer, scene, 0).reshape(family.GRID, family.GRID, -1)
    word = {name: tokenizer.encode(" " + name).ids[-1] for name in ("circle", "red", "navy", "flat")}
    assert shown.sum(-1).allclose(torch.ones(family.GRID, family.GRID))
    assert shown[2, 2, word["circle"]] > 0
    assert shown[2, 2, word["red"]] > 0
    assert shown[2, 2, word["navy"]] == 0
    assert shown[0, 0, word["navy"]] > 0
    assert shown[0, 0, word["red"]] == 0


def test_noise_levels_cover_the_whole_range_and_favour_the_noisy_end():
    levels = pictures.noise_levels(20_000)
    assert 0 < levels.min() < 0.1
    assert 0.999 < levels.max() <= 1
    assert (levels > 0.85).float().mean() > 0.3
