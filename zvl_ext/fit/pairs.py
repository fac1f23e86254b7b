"""What a projection is learned from: rows that Qwen3-VL and the text encoder make of the same tokens.

Only what has a target can be learned from. A prompt's tokens have one each: the text encoder's state at the same token.
Qwen3-VL reads them as it does for a picture: behind a reference, or, where there is none, alone. A single image token
has no counterpart in a text encoder, but all of a picture's together have: what is said of it. So the mean of the image
tokens' rows and the mean of the caption's words' are one more pair. On the miniature that one pair for each picture
decides what inserted image tokens do: the prompt keeps much more of what it names, and as much is filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..engines.sources import Extractor, Text
from ..errors import ZvlError
from ..qwen3vl.passes import whole_states
from ..sequence import build_sequence_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..qwen3vl.tokenizer import Words
    from ..reference import Reference


@dataclass(frozen=True)
class Pairs:
    """Rows of one text.

    Attributes:
        x: Qwen3-VL's by hidden layer, float32 [pairs, hidden]: its tokens but the template's first, and behind them,
            where there is a picture, the mean of the image tokens.
        y: The text encoder's at the same tokens, and the mean of the text's own words, float32 [pairs, width].
        first: The text encoder's at the template's first token, [width].
    """

    x: Mapping[int, torch.Tensor]
    y: torch.Tensor
    first: torch.Tensor


@dataclass(frozen=True)
class Readers:
    """Both models.

    Attributes:
        extractor: Qwen3-VL.
        text: Gives a prompt's text embeddings, as the image model takes them.
        encode: The tokenizer.
        layers: Hidden layers of Qwen3-VL's, from the end.
        tokens: A reference's budget of image tokens.
    """

    extractor: Extractor
    text: Callable[[str], Text]
    encode: Words
    layers: Sequence[int]
    tokens: int

    @property
    def width(self) -> int:
        """Of the text encoder's rows."""
        return int(self.text("").embeddings.shape[1])

    def read(self, prompt: str, reference: Reference | None = None) -> Pairs:
        """Read a text with both.

        Args:
            reference: What Qwen3-VL reads before it; None: nothing.

        Raises:
            ZvlError: values that are not finite, or a text that can't be read.
        """
        checkpoint, text = self.extractor.checkpoint, self.text(prompt)
        if not text.embeddings.isfinite().all():
            raise ZvlError(
                "The text encoder gives values that are not finite. Let it compute in float32 or bfloat16: --dtype."
            )
        pictures = [] if reference is None else [("", checkpoint.grid(reference, self.tokens))]
        sequence = build_sequence_of(text.ids, pictures, self.encode, vision=checkpoint.vision_tokens)
        depth = max(map(checkpoint.depth, self.layers))
        prefix, tails = self.extractor.extend([sequence], reference or (), self.tokens, depth)
        states = {layer: whole_states(prefix, tails[0], layer, checkpoint) for layer in self.layers}
        y = text.embeddings.float().cpu()
        if reference is None:
            return Pairs({layer: each[1:] for layer, each in states.items()}, y[1:], y[0])
        words = y[sequence.head : len(y) - sequence.tail]
        own, images = sequence.rows("text")[1:], sequence.images
        x = {layer: torch.cat([each[own], each[images].mean(0)[None]]) for layer, each in states.items()}
        return Pairs(x, torch.cat([y[1:], words.mean(0)[None]]), y[0])
