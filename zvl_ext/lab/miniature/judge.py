"""A judge of the miniature's pictures that was never trained: it fits outlines and compares colours, by rules.

The classifier learned from drawings such as the image model learned from, so both might share a mistake. This one has
the world's definitions alone: the shapes' outlines and the colours' RGB values.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from PIL import Image

from . import world

RULED = ("shape", "colour", "background")  # what these rules can tell; style they can't
_SIDE = 20  # pixels of a side that is compared
_RADII, _CENTRES = (19.0, 26.0), (-11.0, 0.0, 11.0)  # of the world's sizes and places
_SHIFTS, _HEIGHTS, _ANGLES = (-1.5, 1.5), (-2.0, 0.0, 2.0), (-0.1, 0.0, 0.1)
# Stripes and dots move a part of all pixels towards black or white: by how much in the mean.
_SHADES = (0.0, 0.1, 0.21)
_LUMA = np.array([0.3, 0.59, 0.11])


def seen(picture: Image.Image) -> dict[str, str]:
    """What a picture shows, by attribute."""
    small = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32).reshape(-1, 3) / 255
    names, masks, inverses = _outlines()
    # The best colours within and without each outline are a least-squares fit: pixels = mask · colour + (1 - mask) ·
    # background.
    within = np.einsum("op,pc->oc", masks, pixels)  # not @: for so little, its threads cost more than they bring
    right = np.stack([within, pixels.sum(0) - within], 1)  # [outlines, 2, 3]
    colours = inverses @ right
    explained = (colours * right).sum((1, 2))
    best = int(explained.argmax())
    return {
        "shape": names[best],
        "colour": _named(colours[best, 0], "colour"),
        "background": _named(colours[best, 1], "background"),
    }


def _named(colour: np.ndarray, attribute: str) -> str:
    """The name of the nearest colour, as it is or as patterns shade it."""

    def distance(name: str) -> float:
        value = world.rgb(name)
        towards = 0.0 if value @ _LUMA > 0.5 else 1.0
        return min(float(np.linalg.norm(colour - (value + shade * (towards - value)))) for shade in _SHADES)

    return min(world.ATTRIBUTES[attribute], key=distance)


@functools.lru_cache(maxsize=1)
def _outlines() -> tuple[list[str], np.ndarray, np.ndarray]:
    """All shapes in all places: their names, how much of each pixel they cover [outlines, pixels], and the inverse of
    each one's normal equations [outlines, 2, 2]."""
    names, masks = [], []
    for shape in world.ATTRIBUTES["shape"]:
        for radius, centre, shift, height, angle in itertools.product(_RADII, _CENTRES, _SHIFTS, _HEIGHTS, _ANGLES):
            distance = world.placed(shape, radius, centre + shift, height, angle)
            cover = np.clip(0.5 - distance / 1.4, 0, 1).reshape(_SIDE, world.SIZE // _SIDE, _SIDE, -1).mean((1, 3))
            names.append(shape)
            masks.append(cover.reshape(-1))
    mask = np.stack(masks).astype(np.float32)
    both = (mask * (1 - mask)).sum(1)
    normal = np.stack([(mask**2).sum(1), both, both, ((1 - mask) ** 2).sum(1)], 1).reshape(-1, 2, 2)
    return names, mask, np.linalg.inv(normal)
