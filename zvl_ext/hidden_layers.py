"""Which layers of the language model the hidden states come from, and how much of each.

Of the prompt's tokens and of the image's, each may have its own: one layer, or several whose states are averaged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .errors import ZvlError, shown
from .sequence import TOKEN_MODES

if TYPE_CHECKING:
    import torch

LAYER_OPTIONS = {"hidden_layer", "layer_mix", "image_layers"}
LAYERS = 36  # of Qwen3-4B and Qwen3-VL-4B
MOST = 8  # of a mix: each is a state of the whole sequence in memory
_LARGEST = 8.0  # a larger weight is a slip of the keyboard
_PART = re.compile(r"(?P<layer>-\d{1,3})(?:\s*:\s*(?P<weight>[-+]?(?:\d+(?:\.\d*)?|\.\d+)))?", re.ASCII)

Mix = tuple[tuple[int, float], ...]


def layer_mix(text: str) -> Mix:
    """The layers that a text names and the share of each: from the end, separated by commas or semicolons, each with a
    weight behind a colon, or 1. The shares add up to 1; a weight may be negative.

    >>> layer_mix("-8:3, -2")
    ((-8, 0.75), (-2, 0.25))

    Raises:
        ZvlError: the text is not of that form; a layer comes twice; the weights don't add up to something positive.
    """
    wanted = f"layers from -{LAYERS} to -1 with their weights, such as -8:0.7, -2:0.3, not {shown(text)}"
    weights: dict[int, float] = {}
    for part in re.split("[,;]", text):
        match = _PART.fullmatch(part.strip())
        layer, weight = (int(match["layer"]), float(match["weight"] or 1.0)) if match else (0, 0.0)
        if not -LAYERS <= layer <= -1:
            raise ZvlError(f"Name {wanted}.")
        if layer in weights:
            raise ZvlError(f"Layer {layer} is named twice. Name {wanted}.")
        if abs(weight) > _LARGEST:
            raise ZvlError(f"A layer's weight is at most {_LARGEST:g}. Name {wanted}.")
        weights[layer] = weight
    if len(weights) > MOST:
        raise ZvlError(f"At most {MOST} layers can be mixed. Name {wanted}.")
    total = sum(weights.values())
    if total < 1e-3:
        raise ZvlError(f"The layers' weights must add up to more than 0. Name {wanted}.")
    return tuple((layer, weight / total) for layer, weight in weights.items() if weight)


class Chosen(Protocol):
    """What of the settings says which layers."""

    @property
    def hidden_layer(self) -> int: ...

    @property
    def layer_mix(self) -> str: ...

    @property
    def image_layers(self) -> str: ...

    @property
    def token_mode(self) -> str: ...


@dataclass(frozen=True)
class HiddenLayers:
    """The layers of both kinds of tokens, with their shares.

    Attributes:
        text: Of the prompt's tokens.
        image: Of the image's, with the markers around them.
    """

    text: Mix
    image: Mix

    @property
    def every(self) -> tuple[int, ...]:
        """All layers that are needed, the shallowest first."""
        return tuple(sorted({layer for mix in (self.text, self.image) for layer, _ in mix}))

    def mixed(self, states: Mapping[int, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        """The weighted mean of hidden states, row by row.

        Args:
            states: By layer, each float [m, hidden].
            image: bool [m], which rows are the image's.

        Returns:
            float [m, hidden]; of one layer, its states themselves.
        """
        text = _mean(self.text, states)
        return text if self.image == self.text else text.where(~image[:, None], _mean(self.image, states))


def hidden_layers(settings: Chosen) -> HiddenLayers:
    """The layers that settings name, of the kinds of tokens that they take: a layer of no others is neither needed nor
    read."""
    text: Mix = layer_mix(settings.layer_mix) if settings.layer_mix else ((settings.hidden_layer, 1.0),)
    image = layer_mix(settings.image_layers) if settings.image_layers else text
    mode = TOKEN_MODES[settings.token_mode]
    return HiddenLayers(text if mode.text else image, image if mode.image else text)


def _mean(mix: Mix, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
    first, share = mix[0]
    if len(mix) == 1:
        return states[first]
    mean = share * states[first]
    for layer, share in mix[1:]:
        mean = mean + share * states[layer]
    return mean
