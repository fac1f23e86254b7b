"""What projections are learned from, on the miniature and on its Qwen3-VL in other widths."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zvl_ext.fit import projection as fit
from zvl_ext.fit.pairs import Readers
from zvl_ext.hosts.standalone import StandaloneExtractor
from zvl_ext.hosts.standalone_encoder import TextEncoderFiles
from zvl_ext.lab.miniature import family, world
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.reference import Reference, open_reference

pytest_plugins = ["resized_miniature"]

LAYERS = (-3, -2)
PROMPT = "a large cross, red"


@pytest.fixture(scope="module")
def files() -> TextEncoderFiles:
    return TextEncoderFiles(os.path.join(family.WEIGHTS, "z-image"), dtype="float32")


@pytest.fixture(scope="module")
def shown() -> Reference:
    return open_reference(Image.fromarray(world.draw(world.Scene("star", "green", "navy", "dotted"), 0)))


def readers(path: str, files: TextEncoderFiles) -> Readers:
    extractor = StandaloneExtractor(open_checkpoint(path), "cpu", "float32")
    return Readers(extractor, files.text, files.encode, LAYERS, family.GRID**2)


def test_a_wider_stream_is_the_same_model_turned(
    resized: dict[int, str], files: TextEncoderFiles, shown: Reference
) -> None:
    own = readers(os.path.join(family.WEIGHTS, "qwen3-vl"), files).read(PROMPT, shown)
    wide, narrow = (readers(resized[width], files).read(PROMPT, shown) for width in (128, 80))
    for layer in LAYERS:
        inner = own.x[layer] @ own.x[layer].T
        assert wide.x[layer].shape[1] == 128
        assert (wide.x[layer] @ wide.x[layer].T - inner).norm() < 1e-5 * inner.norm()
        assert (narrow.x[layer] @ narrow.x[layer].T - inner).norm() > 0.05 * inner.norm()


def test_the_pairs_are_of_the_same_tokens(files: TextEncoderFiles, shown: Reference) -> None:
    both = readers(os.path.join(family.WEIGHTS, "qwen3-vl"), files)
    text = files.text(PROMPT).embeddings
    alone, behind = both.read(PROMPT), both.read(PROMPT, shown)
    assert torch.equal(alone.first, text[0])
    assert torch.equal(alone.y, text[1:])
    assert torch.equal(behind.y[:-1], text[1:])
    words = len(files.encode(PROMPT))
    assert torch.allclose(behind.y[-1], text[3 : 3 + words].mean(0))
    # Qwen3-VL without a picture is a plain language model: transformers' own, with counted positions.
    from transformers import Qwen3VLForConditionalGeneration

    folder = os.path.join(family.WEIGHTS, "qwen3-vl")
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, local_files_only=True).float().eval()
    ids = torch.tensor([files.text(PROMPT).ids])
    with torch.inference_mode():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in LAYERS:
        assert torch.allclose(alone.x[layer], states[layer][0, 1:], atol=1e-4)


def test_what_is_not_finite_is_refused(files: TextEncoderFiles, refused: Any) -> None:
    def broken(prompt: str) -> Any:
        text = files.text(prompt)
        return dataclasses.replace(text, embeddings=text.embeddings * float("nan"))

    both = dataclasses.replace(readers(os.path.join(family.WEIGHTS, "qwen3-vl"), files), text=broken)
    with refused("The text encoder gives values that are not finite"):
        both.read(PROMPT)


def test_a_wider_model_gives_the_rows_of_the_same_model_with_its_own(
    resized: dict[int, str], files: TextEncoderFiles, shown: Reference
) -> None:
    """A turn changes nothing that a regression sees, but for its penalty's share of the width."""
    scenes = [world.random_scene(np.random.default_rng(i)) for i in range(12)]
    made = []
    for path in (os.path.join(family.WEIGHTS, "qwen3-vl"), resized[128]):
        both = readers(path, files)
        gathered = fit.gather(
            both, [(f"a {s.colour} {s.shape}, {s.style}", None) for s in scenes], lambda each, _: each
        )
        learned = gathered.learned[-2] + gathered.held[-2]
        made.append(fit.procrustes(learned))
        rows = both.read(PROMPT, shown).x[-2].double()
        made.append(rows @ made[-1].weight + made[-1].bias)
    assert (made[1] - made[3]).norm() < 1e-4 * made[1].norm()


def test_the_memory_is_that_of_the_sums() -> None:
    """Of Qwen3-VL-8B beside Z-Image, three layers."""
    learned_and_held = 2 * 3 * (4096 * 4096 + 4096 * 2560) * 8
    assert learned_and_held < fit.memory(4096, 2560, 3) < 2 * learned_and_held
