"""The stages of the language models: tokenizer, text encoder, vision tower, Qwen3-VL."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from ...qwen3vl import vision
from ...sequence import VisionTokens, build_sequence
from ..miniature import family, world
from .loop import IGNORE, Recipe, Training, averaged, pad, scenes

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokenizer_of(work: str) -> Tokenizer:
    """The tokenizer, trained on captions and descriptions when there is none yet."""
    from tokenizers import Tokenizer

    path = os.path.join(work, "tokenizer", "tokenizer.json")
    if not os.path.isfile(path):
        rng = np.random.default_rng(2)
        texts = []
        for scene in scenes(rng, 4000):
            texts.append(
                family.TEMPLATE.format(world.caption(scene, rng, world.random_mention(rng))) + world.describe(scene)
            )
        texts += [
            "The quick brown fox jumps over the lazy dog. What is in this picture? Describe it, please: colours, "
            "shapes, light."
        ] * 20
        family.save_tokenizer(family.train_tokenizer(texts), os.path.dirname(path))
    return Tokenizer.from_file(path)


SINK_DIMENSIONS, SINK = (4, 60), 25.0


def sink_loss(states: tuple[torch.Tensor, ...], turns: torch.Tensor) -> torch.Tensor:
    """Draws the first token towards the massive activations that large language models have by themselves.

    From the second layer to the one before the last, position 0 becomes SINK times as long as an ordinary token, in two
    dimensions; the second `<|im_start|>`, the same token elsewhere, stays ordinary.

    Args:
        states: Hidden states of every layer, [batch, tokens, hidden].
        turns: The position of the second `<|im_start|>` of each sequence.
    """
    loss = states[0].new_zeros(())
    row = torch.arange(len(turns))
    for state in states[2:-1]:
        ordinary = state[:, 1:].detach().norm(dim=-1).median() / len(SINK_DIMENSIONS) ** 0.5
        first, second = state[:1, 0, SINK_DIMENSIONS].abs(), state[row, turns][:, SINK_DIMENSIONS].abs()
        loss = loss + (torch.log1p(first) - torch.log1p(SINK * ordinary)).square().mean()
        loss = loss + functional.relu(torch.log1p(second) - torch.log1p(ordinary)).square().mean()
    return loss / len(states[2:-1])


class Probes(nn.Module):
    """What the text encoder is asked beside the next word, so that its hidden states are about the prompt.

    A model of a few hundred words forgets a word as soon as it has predicted the next, and its states grow along a few
    common directions; a language model of billions of parameters, trained on everything, does neither to this degree.
    The word itself has to be found in its own state by direction alone, and every mentioned attribute in the state of
    the prompt's last token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = family.text_encoder()
        self.words = nn.Parameter(torch.randn(family.VOCABULARY, family.HIDDEN))
        self.gist = nn.ModuleList([nn.Linear(family.HIDDEN, len(values) + 1) for values in world.ATTRIBUTES.values()])

    def forward(
        self, states: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The probes' loss.

        Args:
            states: hidden_states[-2], [batch, tokens, hidden].
            ids, mask: [batch, tokens]; mask is true at the prompt's tokens but the first.
            last: The position of each prompt's last token.
            labels: Attributes [batch, attributes]; the number of its values for one that is not mentioned.
        """
        states = functional.normalize(states, dim=-1)
        words = functional.cross_entropy(8 * states[mask] @ functional.normalize(self.words, dim=-1).T, ids[mask])
        ends = states[torch.arange(len(last)), last] * family.HIDDEN**0.5
        gist = sum(functional.cross_entropy(head(ends), labels[:, i]) for i, head in enumerate(self.gist)) / len(
            self.gist
        )
        return words + gist


def captioned(
    tokenizer: Tokenizer, scene: world.Scene, rng: np.random.Generator
) -> tuple[frozenset[str], list[int], list[int]]:
    """A caption of a scene.

    Returns:
        What it mentions, the ids of the template with it, and those of the answer that lists what it mentions.
    """
    mention = world.random_mention(rng)
    prompt = family.prompt_ids(tokenizer, world.caption(scene, rng, mention))
    return mention, prompt, [*tokenizer.encode(world.describe(scene, mention)).ids, tokenizer.token_to_id("<|im_end|>")]


class AnsweredCaptions(NamedTuple):
    """A batch of captions with their answers.

    Attributes:
        ids, labels: [batch, tokens].
        words: Which tokens are the prompts', but for each first one, bool [batch, tokens].
        last, turns: Of each prompt, the positions of its last token and of its second `<|im_start|>`.
        mentioned: Attributes [batch, attributes]; the number of its values for one that is not mentioned.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    words: torch.Tensor
    last: torch.Tensor
    turns: torch.Tensor
    mentioned: torch.Tensor


def answered_captions(tokenizer: Tokenizer, rng: np.random.Generator, count: int) -> AnsweredCaptions:
    """Captions in the template, each with the list of what it mentions behind it."""
    start = tokenizer.token_to_id("<|im_start|>")
    sequences, prompts, turns, mentioned = [], [], [], []
    for scene in scenes(rng, count):
        mention, prompt, answer = captioned(tokenizer, scene, rng)
        sequences.append([*prompt, *answer])
        prompts.append(len(prompt))
        turns.append(len(prompt) - 1 - prompt[::-1].index(start))
        values = zip(world.ATTRIBUTES.items(), scene.indices())
        mentioned.append([index if name in mention else len(choices) for (name, choices), index in values])
    ids, lengths = pad(sequences, 0), torch.tensor(prompts)
    place = torch.arange(ids.shape[1])
    words = (place > 0) & (place < lengths[:, None])
    return AnsweredCaptions(
        ids, pad(sequences, IGNORE), words, lengths - 1, torch.tensor(turns), torch.tensor(mentioned)
    )


def train_text_encoder(work: str, minutes: float) -> None:
    """A language model on captions in Z-Image's template, each answered by the list of what it mentions."""
    tokenizer = tokenizer_of(work)
    model = Probes()
    training = Training("text_encoder", model, work, Recipe(800, 0.0, 3e-3, 0.99, 0.05))
    rng = np.random.default_rng((2, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        batch = answered_captions(tokenizer, rng, 48)
        out = model.encoder(input_ids=batch.ids, labels=batch.labels, output_hidden_states=True)
        sink = sink_loss(out.hidden_states, batch.turns)
        probes = model(out.hidden_states[-2], batch.ids, batch.words, batch.last, batch.mentioned)
        norms = out.hidden_states[-2].detach().norm(dim=-1)
        ratio = float(norms[:, 0].mean() / norms[:, 1:].median())
        parts = {
            "language": float(out.loss.detach()),
            "probes": float(probes.detach()),
            "sink": float(sink.detach()),
            "first_token_norm_ratio": ratio,
        }
        return out.loss + 0.3 * probes + 0.05 * sink, parts

    training.run(loss, minutes)


@torch.no_grad()
def encode_prompts(text_encoder: nn.Module, tokenizer: Tokenizer, prompts: list[str]) -> list[torch.Tensor]:
    """Text embeddings as Z-Image takes them: hidden_states[-2], each [tokens, hidden]."""
    ids = [family.prompt_ids(tokenizer, prompt) for prompt in prompts]
    states = text_encoder(input_ids=pad(ids, 0), output_hidden_states=True).hidden_states[-2]
    return [state[: len(row)] for state, row in zip(states, ids)]


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
        labels.append([IGNORE] * (sequence.image_end + 1) + list(sequence.ids[sequence.image_end + 1 :]))
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


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {token: tokenizer.token_to_id(token) for token in family.SPECIAL}


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
