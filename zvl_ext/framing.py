"""Which part of a reference is read: its crop, and a mask over it. Pure functions on pictures and masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .reference import Reference, reference_of

if TYPE_CHECKING:
    import torch

_GREY = (128, 128, 128)  # the vision tower's mean: of all colours the one that says least
_MASK_SIDE = 1024  # pixels of a mask's longer side: finer than any grid of tokens

Size = tuple[int, int]  # width and height, in any unit


def _whole(image: Image.Image, shape: Size) -> Image.Image:
    return image


def _centre(image: Image.Image, shape: Size) -> Image.Image:
    """The largest part in the middle that has the shape."""
    width = min(image.width, max(1, round(image.height * shape[0] / shape[1])))
    height = min(image.height, max(1, round(image.width * shape[1] / shape[0])))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image.Image, shape: Size) -> Image.Image:
    """All of it in the middle of the smallest picture that has the shape."""
    width = max(image.width, round(image.height * shape[0] / shape[1]))
    height = max(image.height, round(image.width * shape[1] / shape[0]))
    # What is outside the picture is grey for the vision tower, and black, not kept, in a mask.
    canvas = Image.new(image.mode, (width, height), _GREY if image.mode == "RGB" else 0)
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


# How a reference of another shape is brought to the picture's: an image and a shape in, an image out.
CROPS: dict[str, Callable[[Image.Image, Size], Image.Image]] = {"whole": _whole, "centre": _centre, "pad": _padded}


def framed(reference: Reference, crop: str, shape: Size) -> Reference:
    """The part of a reference that is read.

    Args:
        crop: A member of CROPS.
        shape: The picture's, width and height.
    """
    image = CROPS[crop](reference.image, shape)
    if image.size == reference.image.size:
        return reference
    return reference_of(image, reference.name)


def framed_mask(mask: Reference, reference: Reference, crop: str, shape: Size) -> torch.Tensor:
    """A mask over a reference, stretched over it and cropped with it, float [height, width] in 0..1.

    Args:
        reference: As it was before it was framed.
        crop, shape: As for `framed`.
    """
    grey = mask.image.convert("L").resize(reference.image.size, Image.Resampling.BILINEAR)
    return _values(CROPS[crop](grey, shape))


def masked(reference: Reference, mask: torch.Tensor) -> Reference:
    """A reference that is grey where its mask is black.

    Args:
        mask: From `framed_mask`, over this part of the reference.
    """
    grey = Image.new("RGB", reference.image.size, _GREY)
    kept = Image.fromarray((mask.numpy() * 255).round().astype(np.uint8)).resize(reference.image.size)
    return reference_of(Image.composite(reference.image, grey, kept), reference.name)


def mask_of(mask: Reference) -> torch.Tensor:
    """A picture as a mask, float [height, width] in 0..1: white is 1."""
    return _values(mask.image.convert("L"))


def _values(image: Image.Image) -> torch.Tensor:
    import torch

    if max(image.size) > _MASK_SIDE:
        shrink = _MASK_SIDE / max(image.size)
        size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        image = image.resize(size, Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)
