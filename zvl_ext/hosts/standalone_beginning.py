"""Beginning a picture from a reference without a web UI: diffusers' own img2img over the same models."""

from __future__ import annotations

from typing import Any

from ..beginning import Beginning
from ..errors import ZvlError


def steps_from(steps: int, strength: float) -> int:
    """How many of the steps are sampled with a denoising strength, as diffusers counts them
    (`ZImageImg2ImgPipeline.get_timesteps`)."""
    return steps - int(max(steps - min(steps * strength, steps), 0))


def begins(beginning: Beginning, steps: int) -> bool:
    """Whether anything of the picture is left in what sampling begins from: all steps begin from noise alone."""
    return steps_from(steps, beginning.strength) < steps


def from_picture(
    pipeline: Any, beginning: Beginning, size: tuple[int, int], pictures: int
) -> tuple[Any, dict[str, Any]]:
    """diffusers' img2img over a pipeline's own models, and what to call it with besides.

    Args:
        pictures: How many the batch has. Each gets the reference for itself, so that none depends on the others.

    Raises:
        ZvlError: an old diffusers has none.
    """
    try:
        from diffusers import ZImageImg2ImgPipeline
    except ImportError:
        raise ZvlError(
            "This version of diffusers can't begin from a picture. Update it, or set denoising_strength to 1."
        ) from None
    other = ZImageImg2ImgPipeline(**pipeline.components)
    other.set_progress_bar_config(disable=True)
    return other, {"image": [beginning.at(size)] * pictures, "strength": beginning.strength}
