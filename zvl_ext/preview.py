"""What the models see of a reference, as a picture: its part, at its size, with the tokens that are left out
darkened."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .budget import inserts, token_budget
from .conditioner import unit_of
from .framing import Size
from .mixing.select import inside
from .options import Settings
from .reference import sized
from .regions import Frame
from .sequence import TOKEN_MODES

_TOKEN = 32  # pixels of a token's side
_LIGHT = 0.2  # of what is left out


@dataclass(frozen=True)
class Seen:
    """What the models see of one reference.

    Attributes:
        image: RGB, at the size the vision tower gets; what is left out is dark.
        tokens: The tokens it is read as, after merging.
        kept: Those of them that lie inside the reference's mask.
    """

    image: Image.Image
    tokens: int
    kept: int


def seen(settings: Settings, shape: Size) -> dict[int, Seen]:
    """What the models see of each reference, by its number, with a prompt that leaves it room.

    Args:
        shape: The picture's width and height.

    Raises:
        ZvlError: a reference or a mask can't be read, or a mask has nothing in it.
    """
    units = settings.units
    together = [sum(other.negative == own.negative for other in units.values()) for own in units.values()]
    return {number: _seen(number, own, shape, n) for (number, own), n in zip(units.items(), together)}


def _seen(number: int, own: Settings, shape: Size, references: int) -> Seen:
    unit = unit_of(number, own, shape, Frame.to_come())  # where in the picture it acts is another question
    image = sized(unit.reference, token_budget(own, 0, references))
    side = _TOKEN * (own.merge if inserts(own) else 1)
    grid = math.ceil(image.height / side), math.ceil(image.width / side)
    tokens = grid[0] * grid[1]
    if unit.mask is None or not TOKEN_MODES[own.token_mode].image:
        return Seen(image, tokens, tokens)
    kept = inside(unit.mask, grid).numpy()
    light = np.where(kept, 1.0, _LIGHT).repeat(side, axis=0).repeat(side, axis=1)[: image.height, : image.width]
    return Seen(Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8)), tokens, int(kept.sum()))
