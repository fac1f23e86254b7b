"""The image model's velocity on the way from noise to a picture, and how noisy a place on it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

_LEAST = 1e-3  # of a place: without any noise there is nothing to tell


def noise_levels(places: torch.Tensor, shift: float) -> torch.Tensor:
    """The share of noise at places on the way from noise alone (1) to none (0), where sampling shifts its steps.

    Uniform places are as sampling passes them; a place is 1 less the share of the steps that are done.

    >>> [round(float(level), 2) for level in noise_levels(torch.tensor([0.25, 0.5, 1.0]), 3.0)]
    [0.5, 0.75, 1.0]
    """
    places = places.clamp(_LEAST, 1.0)
    return shift * places / (1 + (shift - 1) * places)


def velocities(
    transformer: Any, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor, rows: Sequence[torch.Tensor]
) -> torch.Tensor:
    """What the image model says of each picture's way, float32 [batch, channels, height, width].

    In diffusers' Z-Image's way of counting: its time is 1 less the noise level, and its velocity is about the picture
    less the noise.

    Args:
        latents, noise: [batch, channels, height, width].
        levels: Shares of noise [batch].
        rows: Of each picture's conditioning.
    """
    kind = next(transformer.parameters())
    level = levels[:, None, None, None]
    noisy = ((1 - level) * latents + level * noise).to(kind)
    output = transformer(list(noisy[:, :, None].unbind()), (1 - levels).to(kind.device), list(rows), return_dict=False)
    return torch.stack(output[0])[:, :, 0].float()
