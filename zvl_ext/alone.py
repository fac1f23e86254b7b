"""When Qwen3-VL alone makes a conditioning, so that the image model's text encoder need be neither loaded nor run."""

from __future__ import annotations

from collections.abc import Iterable

from .conditioner import needs_statistics, normalization, weighting_of
from .engines import ENGINES
from .options import PROMPT, Settings
from .sequence import TOKEN_MODES


def makes_alone(acting: Iterable[Settings]) -> bool:
    """Whether nothing of the text encoder is in a conditioning, but its tokens' number: every row that the image model
    gets is Qwen3-VL's, at every step.

    Args:
        acting: The settings of the references that act in this half of guidance, each as it has them for itself.
    """
    references = list(acting)
    if len(references) != 1:  # several lead the prompt's rows from the plain ones, each a part of the way
        return False
    (settings,) = references
    engine, how, weighting = ENGINES[settings.engine], normalization(settings), weighting_of(settings)
    if not engine.language_model or engine.keeps_first or how.keeps_first or needs_statistics(settings):
        return False
    if settings.alpha != 1.0 or settings.blend_mode != "linear":
        return False
    if not weighting.constant or weighting.weight < 1.0:  # at some step there is something of the plain rows
        return False
    # There the prompt's rows are blended one by one: they are Qwen3-VL's only if it has read the same prompt.
    return settings.length_match != "insert" or (TOKEN_MODES[settings.token_mode].text and settings.vl_prompt == PROMPT)
