"""What a file tells of the fit that it comes from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..profiles import FITTED_FOR

if TYPE_CHECKING:
    from .gathering import Material, Wish
    from .state import Progress


def about(wish: Wish, material: Material, progress: Progress) -> dict[str, str]:
    """The image model, how references were read, and how much was learned from; by the names in `profiles.ABOUT`."""
    settings, transformer = wish.settings, material.model.pipeline.transformer
    heads, width = transformer.config.n_heads, transformer.config.dim
    name = os.path.basename(os.path.abspath(wish.z_image))
    return {
        "image_model": f"{name}, {len(transformer.layers)} blocks of {heads} heads, {width} wide",
        "width": str(width),
        **{option: str(getattr(settings, option)) for option in FITTED_FOR},
        "weight": f"{settings.weight:g}",
        "curve": settings.curve,
        "pictures": str(material.pictures),
        "steps": str(progress.best),
        "seed": str(wish.schedule.seed),
        "seconds": f"{material.seconds + progress.seconds:.0f}",
        "command": wish.command,
    }
