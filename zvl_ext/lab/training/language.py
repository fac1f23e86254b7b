"""The stages of the language model alone: tokenizer and text encoder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..miniature import family, world
from .loop import IGNORE, Recipe, Training, pad, scenes

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


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    return {token: tokenizer.token_to_id(token) for token in family.SPECIAL}
