"""The standalone image pipeline, over an untrained miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import research

pytest.importorskip("diffusers")

from zvl_ext.lab import demo
from zvl_ext.lab.miniature import family
from zvl_ext.options import Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import Reference

PROMPT = "a large red heart, on a white background"
SAMPLING = {"size": (32, 32), "steps": 2, "guidance": 2.0}

# --- Z-Image without a web UI


@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_text_embeddings_are_the_pipelines_own(weights: demo.Weights, weights_folder: Path, prompt: str) -> None:
    from diffusers import ZImagePipeline
    from transformers import Qwen2TokenizerFast

    pipeline = ZImagePipeline.from_pretrained(str(weights_folder / "z-image"), tokenizer=None, torch_dtype="auto")
    pipeline.text_encoder.float()
    tokenizer = Qwen2TokenizerFast.from_pretrained(str(weights_folder / "z-image" / "tokenizer"))
    pipeline.tokenizer = lambda *args, **kwargs: tokenizer(*args, **kwargs)
    # Of the chat template diffusers asks for more than these tiny tokenizers have: thinking switched on changes nothing
    # in it.
    pipeline.tokenizer.apply_chat_template = tokenizer.apply_chat_template
    (expected,), _ = pipeline.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(weights.model.text(prompt).embeddings, expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_alpha_0_is_the_plain_picture_to_the_last_bit(weights: demo.Weights, drawn: Reference, preset: str) -> None:
    settings = weights.fitted(Settings.from_mapping({"preset": preset, "alpha": 0.0}))
    model = weights.model
    conditionings = [model.text(PROMPT).embeddings, model.condition(settings, drawn, PROMPT, 7).rows]
    plain, conditioned = (model.generate([each], [7], **SAMPLING)[0] for each in conditionings)
    assert torch.equal(*conditionings)
    assert plain.tobytes() == conditioned.tobytes()


@pytest.mark.parametrize("preset", ["Research default", "Splice: faithful"])
def test_a_reference_changes_the_conditioning(weights: demo.Weights, drawn: Reference, preset: str) -> None:
    settings = weights.fitted(Settings.from_mapping({"preset": preset}))
    conditioning, plain = weights.model.condition(settings, drawn, PROMPT).rows, weights.model.text(PROMPT).embeddings
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
    assert torch.equal(weights.model.condition(settings, drawn, "a moon").rows, before.rows)


# --- layers


@pytest.mark.parametrize("layer", [*range(-36, 0)])
def test_the_real_models_layers_are_their_own_at_the_same_depth(layer: int) -> None:
    assert family.layer_at_same_depth(layer, 36) == layer


def test_the_miniature_takes_presets_at_the_same_depth(weights: demo.Weights) -> None:
    layers = {layer: weights.fitted(research(hidden_layer=layer)).hidden_layer for layer in (-1, -2, -8, -12, -36)}
    assert layers == {-1: -1, -2: -2, -8: -3, -12: -3, -36: -8}
    assert weights.fitted(research(reference_tokens=576)).reference_tokens == family.GRID**2
