"""Captioned pictures of the miniature's world as a folder, as a user has one: to try fitting on."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from . import world

PICTURES = 240


def write_album(folder: str, count: int = PICTURES, seed: int = 0) -> None:
    """Draw pictures, each with a text file of the same name beside it; all of combinations that training shows.

    A caption speaks of the four judged attributes, and now and then of size and place.
    """
    rng = np.random.default_rng((20, seed))
    os.makedirs(folder, exist_ok=True)
    for number in range(count):
        scene = world.random_scene(rng)
        mention = {*world.JUDGED, *(name for name in ("size", "place") if rng.random() < 0.5)}
        path = os.path.join(folder, f"{number:04d}")
        Image.fromarray(world.draw(scene, int(rng.integers(2**31)))).save(f"{path}.png")
        with open(f"{path}.txt", "w", encoding="utf-8") as file:
            file.write(world.caption(scene, rng, frozenset(mention)) + "\n")
