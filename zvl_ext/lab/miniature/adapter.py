"""A trained adapter of IP-Adapter's kind for the miniature image model: what training buys beside the engines.

After Ye et al., "IP-Adapter" (arXiv 2308.06721): the image model stays as it is; each of its main layers gets keys and
values of its own for the reference's tokens, and the picture's rows attend to them beside their usual attention. A
scale weighs the sum.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator

import torch
from torch import nn

from . import family
from .learned import Learned, digest_of

WIDTH = 72  # of the projected reference tokens
FILE = "adapter.safetensors"


class Adapter(nn.Module):
    """Keys and values of a reference for each main layer of a ZImageTransformer2DModel.

    Args:
        layers: How many main layers the image model has.
        dim: Its width.
        tokens: The width of the vision tower's image tokens.
    """

    def __init__(self, layers: int, dim: int, tokens: int = family.HIDDEN):
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(tokens), nn.Linear(tokens, WIDTH), nn.LayerNorm(WIDTH))
        self.keys = nn.ModuleList(nn.Linear(WIDTH, dim, bias=False) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(WIDTH, dim, bias=False) for _ in range(layers))
        for value in self.values:  # a new adapter changes nothing
            nn.init.zeros_(value.weight)

    @contextlib.contextmanager
    def attached(self, transformer: nn.Module, tokens: torch.Tensor, scale: float = 1.0) -> Iterator[None]:
        """Let an image model look at references for a while. A scale of 0 leaves the model untouched.

        Args:
            transformer: A ZImageTransformer2DModel.
            tokens: Image tokens of the vision tower, float [batch, N, tokens], one reference for each of the first
                pictures of the model's batch. Pictures after them, such as the unconditional half of guidance, see
                none.
        """
        if scale == 0:
            yield
            return
        projected = self.project(tokens)
        attentions = [layer.attention for layer in transformer.layers]
        usual = [attention.processor for attention in attentions]
        # The picture's rows come first in the model's sequence: 8 pixels to a latent, 2 × 2 latents to a row.
        rows = (family.SIZE // 16) ** 2
        for attention, processor, key, value in zip(attentions, usual, self.keys, self.values):
            attention.processor = _Decoupled(processor, key(projected), value(projected), rows, scale)
        try:
            yield
        finally:
            for attention, processor in zip(attentions, usual):
                attention.processor = processor


class _Decoupled:
    """An attention processor that adds attention to a reference.

    The output projection is linear, so the sum may be taken behind it.
    """

    def __init__(self, usual: Callable, key: torch.Tensor, value: torch.Tensor, rows: int, scale: float):
        self.usual, self.key, self.value, self.rows, self.scale = usual, key, value, rows, scale

    # diffusers looks at the names of these arguments and passes no others.
    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        freqs_cis: torch.Tensor | None = None,
    ) -> torch.Tensor:
        output = self.usual(attn, hidden_states, encoder_hidden_states, attention_mask, freqs_cis)

        def heads(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        # Without RoPE: what a place of the reference shows may be of use anywhere in the picture.
        picture = hidden_states[: len(self.key), : self.rows]
        query, key, value = attn.norm_q(heads(attn.to_q(picture))), attn.norm_k(heads(self.key)), heads(self.value)
        seen = nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        added = torch.zeros_like(output)
        added[: len(self.key), : self.rows] = attn.to_out[0](seen.transpose(1, 2).flatten(2))
        return output + self.scale * added


def made(folder: str = family.WEIGHTS) -> Learned:
    """What the trained adapter is; how long it took is told by the log of the miniature's training, if there is one."""
    from safetensors.torch import load_file

    tensors = load_file(os.path.join(folder, FILE))
    try:
        with open(os.path.join(folder, "training.json"), encoding="utf-8") as file:
            seconds = 60 * float(json.load(file)["adapter"][-1]["minutes"])
    except (OSError, ValueError, LookupError, TypeError):
        seconds = None
    return Learned(digest_of(tensors), sum(each.numel() for each in tensors.values()), seconds)


def for_model(transformer: nn.Module) -> Adapter:
    """A new adapter that fits an image model."""
    return Adapter(len(transformer.layers), transformer.config.dim)


def load(transformer: nn.Module, folder: str = family.WEIGHTS) -> Adapter | None:
    """The trained adapter, or None where the folder has none."""
    from safetensors.torch import load_file

    path = os.path.join(folder, FILE)
    if not os.path.isfile(path):
        return None
    adapter = for_model(transformer)
    adapter.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return adapter.eval().requires_grad_(False)
