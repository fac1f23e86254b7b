"""Another view of a picture: what a person might have taken instead. A part of it, mirrored, in other tones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_SMALLEST = 0.8  # of a part's sides, as a share of the picture's
_TONE = 0.15  # how far brightness, contrast and saturation go from 1


def part(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of it somewhere, in its own proportions."""
    share = rng.uniform(_SMALLEST, 1.0)
    width, height = (max(1, round(side * share)) for side in picture.size)
    left, top = (int(rng.integers(whole - own + 1)) for whole, own in zip(picture.size, (width, height)))
    return picture.crop((left, top, left + width, top + height)).resize(picture.size)


def mirrored(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right exchanged, or not."""
    from PIL import Image

    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture


def toned(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """In slightly other tones."""
    from PIL import ImageEnhance

    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = change(picture).enhance(rng.uniform(1 - _TONE, 1 + _TONE))
    return picture


VIEWS = (part, mirrored, toned)


def view(picture: Image.Image, seed: int) -> Image.Image:
    """Another view of an RGB picture, of the same size; the same for the same seed."""
    rng = np.random.default_rng(seed)
    for change in VIEWS:
        picture = change(picture, rng)
    return picture
