"""The stages of the vision-language model: to see, to name what is seen, to speak the text encoder's language."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from ...qwen3vl import vision
from ...sequence import VisionTokens, build_sequence
from ..miniature import family, world
from .language import Probes, captioned, special_ids, tokenizer_of
from .loop import IGNORE, Recipe, Training, averaged, pad, scenes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def vision_batch(
    tokenizer: Tokenizer, rng: np.random.Generator, count: int, special: dict[str, int]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Sequences of a picture, often with a caption behind it, and the picture's description as the answer.

    Returns:
        The model's inputs, and what each image position shows, [count, image tokens, vocabulary]: shares that sum to
        one.
    """
    patches, ids, labels, positions, shown = [], [], [], [], []
    encode = lambda text: tokenizer.encode(text).ids  # noqa: E731
    tokens = VisionTokens(special["<|vision_start|>"], special["<|image_pad|>"], special["<|vision_end|>"])
    for scene in scenes(rng, count):
        text = world.caption(scene, rng, world.random_mention(rng)) if rng.random() < 0.4 else ""
        prompt = build_sequence(family.prompt_ids(tokenizer, text), (family.GRID, family.GRID), encode, vision=tokens)
        answer = (*encode(world.describe(scene)), special["<|im_end|>"])
        sequence = dataclasses.replace(prompt, ids=prompt.ids + answer)
        seed = int(rng.integers(2**31))
        patches.append(vision.patches(Image.fromarray(world.draw(scene, seed)), family.PATCH, family.MERGE)[0])
        shown.append(named_patches(tokenizer, scene, seed))
        ids.append(list(sequence.ids))
        # A language model's loss is on what follows the picture: the caption in the user's turn and the answer.
        labels.append([IGNORE] * sequence.fork + list(sequence.ids[sequence.fork :]))
        positions.append(torch.cat([torch.arange(len(sequence.ids))[None], sequence.position_ids()]).T)
    side = family.GRID * family.MERGE
    inputs = {
        "input_ids": pad(ids, 0),
        "labels": pad(labels, IGNORE),
        "position_ids": nn.utils.rnn.pad_sequence(positions, batch_first=True).permute(2, 0, 1),
        "pixel_values": torch.cat(patches),
        "image_grid_thw": torch.tensor([[1, side, side]] * count),
    }
    return inputs, torch.stack(shown)


def named_patches(tokenizer: Tokenizer, scene: world.Scene, seed: int) -> torch.Tensor:
    """Words for what each image position shows, [image tokens, vocabulary].

    The object's on the object, the background's elsewhere.
    """
    word = {name: tokenizer.encode(" " + getattr(scene, name)).ids[-1] for name in world.JUDGED}
    object_, background = torch.zeros(family.VOCABULARY), torch.zeros(family.VOCABULARY)
    object_[[word["shape"], word["colour"], word["style"]]] = torch.tensor([0.4, 0.4, 0.2])
    background[[word["background"], word["style"]]] = torch.tensor([0.6, 0.4])
    covered = torch.from_numpy(world.coverage(scene, seed, family.GRID)).flatten() > 0.5
    return torch.where(covered[:, None], object_, background)


def grounding_loss(
    states: torch.Tensor, ids: torch.Tensor, image: int, words: torch.Tensor, shown: torch.Tensor
) -> torch.Tensor:
    """How far the image positions' states are from the words for what they show, by the text encoder's own directions.

    In large vision-language models the late states of image tokens are close to the words for their patch (Neo et al.,
    arXiv 2410.07149), from training on regions and their names; this is that training's place.

    Args:
        states: hidden_states[-2], [batch, tokens, hidden].
        ids: [batch, tokens].
        words: The text encoder's directions of words, [vocabulary, hidden].
        shown: From vision_batch.
    """
    at_image = functional.normalize(states[ids == image], dim=-1)
    return functional.cross_entropy(8 * at_image @ functional.normalize(words, dim=-1).T, shown.flatten(0, 1))


def begun_from(stage: str, special: dict[str, int], text_encoder: nn.Module, work: str) -> nn.Module:
    """Qwen3-VL of the text encoder's language model, with the vision tower of a stage or, for "", a new one."""
    model = family.qwen3_vl(special)
    model.model.language_model.load_state_dict(text_encoder.model.state_dict())
    model.tie_weights()
    if stage:
        state = load_file(os.path.join(work, f"{stage}.safetensors"))
        model.load_state_dict(
            {key.removeprefix("average."): value for key, value in state.items() if key.startswith("average.")},
            strict=False,
        )
    return model


def seen_and_named(
    model: nn.Module, batch: tuple[dict[str, torch.Tensor], torch.Tensor], words: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The language model's loss about pictures, and grounding_loss, of a batch from vision_batch."""
    inputs, shown = batch
    model.model.rope_deltas = None
    out = model(**inputs, output_hidden_states=True)
    return out.loss, grounding_loss(
        out.hidden_states[-2], inputs["input_ids"], model.config.image_token_id, words, shown
    )


@contextlib.contextmanager
def read_as_text(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """While the context is open the image tokens are what positions `sequential` makes of them: words among words.

    They have positions 0, 1, 2, ... as all others, in each of the rows for text, time, row and column, and DeepStack
    adds nothing.

    Args:
        inputs: From vision_batch. It stays as it is; the changed one is given.
    """
    tower = model.model.visual
    usual, tower.deepstack_visual_indexes = tower.deepstack_visual_indexes, []
    try:
        yield {
            **inputs,
            "position_ids": torch.arange(inputs["input_ids"].shape[1]).expand(inputs["position_ids"].shape),
        }
    finally:
        tower.deepstack_visual_indexes = usual


def train_vision(work: str, minutes: float) -> None:
    """The vision tower against the frozen text encoder, as vision-language models begin: it learns its language."""
    tokenizer = tokenizer_of(work)
    special = special_ids(tokenizer)
    model = begun_from("", special, averaged("text_encoder", Probes(), work).encoder, work)
    model.model.language_model.requires_grad_(False)
    training = Training("vision", model, work, Recipe(2200, 3e-3, 2e-3))
    rng = np.random.default_rng((4, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        model.model.rope_deltas = None
        return model(**vision_batch(tokenizer, rng, 32, special)[0]).loss, {}

    training.run(loss, minutes)


def train_grounding(work: str, minutes: float) -> None:
    """The vision tower again, the text encoder still frozen: now each image token also names what its patch shows."""
    tokenizer = tokenizer_of(work)
    special = special_ids(tokenizer)
    probes = averaged("text_encoder", Probes(), work)
    model = begun_from("vision", special, probes.encoder, work)
    model.model.language_model.requires_grad_(False)
    training = Training("grounding", model, work, Recipe(1400, 2e-3, 1.5e-3, 0.99))
    rng = np.random.default_rng((9, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        seen, named = seen_and_named(model, vision_batch(tokenizer, rng, 32, special), probes.words)
        return seen + 0.5 * named, {"seen": float(seen.detach()), "named": float(named.detach())}

    training.run(loss, minutes)


def train_alignment(work: str, minutes: float) -> None:
    """The vision tower once more with the grounding stage's loss: half of the batches as the text encoder counts words.

    The stages before know Qwen3-VL's own positions only. A tower that has learned under those alone says little else
    but the shape where its tokens stand among a prompt's words, as positions `sequential` have them; the real one is
    published to work there.
    """
    tokenizer = tokenizer_of(work)
    special = special_ids(tokenizer)
    probes = averaged("text_encoder", Probes(), work)
    model = begun_from("grounding", special, probes.encoder, work)
    model.model.language_model.requires_grad_(False)
    training = Training("alignment", model, work, Recipe(500, 1.5e-3, 1e-3, 0.99))
    rng = np.random.default_rng((10, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        inputs, shown = vision_batch(tokenizer, rng, 32, special)
        way = read_as_text(model, inputs) if rng.random() < 0.5 else contextlib.nullcontext(inputs)
        with way as changed:
            seen, named = seen_and_named(model, (changed, shown), probes.words)
        return seen + 0.5 * named, {"seen": float(seen.detach()), "named": float(named.detach())}

    training.run(loss, minutes)


def train_qwen3_vl(work: str, minutes: float) -> None:
    """The language model at a low rate, on pictures and on text, held near the text encoder; the vision tower stays.

    It drifts a little, as the real one did.
    """
    tokenizer = tokenizer_of(work)
    special = special_ids(tokenizer)
    probes = averaged("text_encoder", Probes(), work)
    model = begun_from("alignment", special, probes.encoder, work)
    training = Training("qwen3_vl", model, work, Recipe(450, 4e-4, 3e-4, 0.99))
    model.model.visual.requires_grad_(False)  # only now, so that the stage's state holds it
    rng = np.random.default_rng((5, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        seen, named = seen_and_named(model, vision_batch(tokenizer, rng, 24, special), probes.words)
        texts = [
            [*prompt, *answer] for _, prompt, answer in (captioned(tokenizer, scene, rng) for scene in scenes(rng, 16))
        ]
        ids = pad(texts, 0)
        out = model(input_ids=ids, labels=pad(texts, IGNORE), output_hidden_states=True)
        with torch.no_grad():
            wanted = probes.encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2][:, 1:]
        got = out.hidden_states[-2][:, 1:]
        anchor = (got - wanted).square().mean() / wanted.square().mean()
        parts = {
            "seen": float(seen.detach()),
            "named": float(named.detach()),
            "text": float(out.loss.detach()),
            "cosine": float(functional.cosine_similarity(got, wanted, dim=-1).detach().mean()),
        }
        return seen + 0.5 * named + 0.5 * out.loss + 2.0 * anchor, parts

    training.run(loss, minutes)
