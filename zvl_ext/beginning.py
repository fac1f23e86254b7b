"""What sampling begins from besides noise: a reference, brought to the picture's size. Plain arithmetic on pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from .conditioner import Unit
from .options import Settings
from .reference import Reference

_SHAPES = 1.03  # shapes that differ by less are alike: a picture's sides are multiples of 8 or 16


@dataclass(frozen=True)
class Beginning:
    """A reference that sampling begins from.

    Attributes:
        reference: As its crop has framed it.
        strength: The denoising strength: the share of the noise schedule that is sampled, below 1.
    """

    reference: Reference
    strength: float

    def at(self, size: tuple[int, int]) -> Image.Image:
        """The reference in the picture's width and height, RGB."""
        image = self.reference.image
        return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)

    def stretched(self, size: tuple[int, int]) -> str:
        """A line for the user where the reference has another shape than the picture; "" where it has not."""
        width, height = self.reference.image.size
        ratio = (width * size[1]) / (height * size[0])
        if max(ratio, 1 / ratio) < _SHAPES:
            return ""
        return (
            "The picture began from a reference of another shape, stretched to its own. Crop centre or pad keep "
            "the shapes in it."
        )

    def too_late(self, steps: int) -> str:
        """A line for the user where so many steps are too few to begin from anything but noise.

        Samplers count whole steps: a strength is rounded up to the next of them, and the first one's noise leaves
        nothing of a picture.
        """
        most = math.ceil((steps - 1) / steps * 100 - 1e-9) / 100 - 0.01 if steps > 1 else 0.0
        advice = f"Choose {most:g} or less, or more steps." if most > 0 else "Choose more steps."
        return (
            f"Denoising strength {self.strength:g} is all of {steps} steps, so the picture began from noise alone. "
            f"{advice}"
        )


def beginning_of(settings: Settings, units: list[Unit]) -> Beginning | None:
    """What sampling begins from under these settings: the first reference that acts and is not negative; None: noise
    alone.

    Args:
        units: The picture's references that have a part in it.
    """
    if settings.denoising_strength == 1.0:
        return None
    first = next((unit for unit in units if not unit.settings.negative), None)
    return None if first is None else Beginning(first.reference, settings.denoising_strength)
