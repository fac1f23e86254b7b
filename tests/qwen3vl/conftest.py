"""What the tests of this room share: weights to damage and to save, a prompt and a picture to read, a deeper model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from cases import TOKENS, sequence_for
from deep import DEEP, Case
from weights import opened

from zvl_ext.qwen3vl.language import Qwen3VL
from zvl_ext.reference import open_reference


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy of the one-shard folder that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture
def state(model) -> dict[str, torch.Tensor]:
    """The weights of `model`, to be changed at will."""
    return tiny.inner_state(model)


@pytest.fixture
def saved(model, tmp_path) -> Callable[..., Path]:
    """Write tensors (names as in `inner_state`) as one file with the configuration; returns its path."""

    def save(tensors: dict[str, torch.Tensor], name: str = "fp8.safetensors") -> Path:
        return tiny.save_single(tensors, tmp_path / name, metadata=tiny.config_metadata(model.config))

    return save


@pytest.fixture
def states(encode) -> Callable[..., dict[int, torch.Tensor]]:
    """A model's states at some layers for one prompt and picture, float32."""

    def read(model: Qwen3VL, layers=range(-5, 0)) -> dict[int, torch.Tensor]:
        reference = open_reference(tiny.picture(160, 96))
        return model.hidden_states(
            sequence_for(model.checkpoint, encode, "a photo of a cat", reference), reference, TOKENS, layers
        )

    return read


@pytest.fixture
def prepared(loaded, encode):
    """The sequence of one prompt and the reference it is for."""
    reference = open_reference(tiny.picture(160, 96))
    return sequence_for(loaded.checkpoint, encode, "a cat", reference), reference


# --- a deeper model


@pytest.fixture(scope="session")
def deep_model(tokenizer) -> transformers.Qwen3VLForConditionalGeneration:
    """Plain transformers, deeper than DeepStack goes, as the real models are."""
    return tiny.make_model(tiny.make_config(tokenizer, DEEP), seed=4)


@pytest.fixture(scope="session")
def deep_folder(deep_model, tokenizer, tmp_path_factory) -> Path:
    return tiny.save_folder(deep_model, tokenizer, tmp_path_factory.mktemp("models") / "deep-vl")


@pytest.fixture(scope="session")
def deep(deep_folder) -> Qwen3VL:
    return opened(deep_folder)


@pytest.fixture
def case(tokenizer, encode, deep_model, deep) -> Callable[..., Case]:
    def make(prompt: str, size: tuple[int, int] = (160, 96), system: str = "", of: tuple = (deep, deep_model)) -> Case:
        (loaded, plain), image = of, tiny.picture(*size)
        reference, pixels = open_reference(image), tiny.plain_pixels(image, TOKENS)
        ids, modes = tiny.plain_ids(tokenizer, prompt, int(pixels["image_grid_thw"].prod()) // 4, system)
        sequence = sequence_for(loaded.checkpoint, encode, prompt, reference, TOKENS, system)
        assert list(sequence.ids) == ids
        return Case(sequence, reference, tiny.plain_hidden_states(plain, ids, pixels, modes["image_no_markers"]))

    return make
