"""How many tokens the conditioning gets, and what they cost. Plain arithmetic on settings."""

from __future__ import annotations

from itertools import pairwise

from .errors import ZvlError
from .options import Settings

# Z-Image was trained with captions of up to 512 tokens; twice that is as far as its conditioning should be stretched.
MAX_TOKENS = 1000
# Added tokens -> added time per sampling step at 1024 × 1024, in percent: from counting operations of Z-Image's transformer.
STEP_COST = ((0, 0.0), (256, 7.0), (576, 16.0), (1024, 29.0))


def dropped(settings: Settings, image_tokens: int) -> int:
    """How many of N image tokens image dropout leaves out: floor(share · N), at least one stays."""
    return max(0, min(int(settings.image_dropout * image_tokens + 1e-9), image_tokens - 1))


def inserted_tokens(settings: Settings, image_tokens: int) -> int:
    """How many tokens the conditioning grows by with a reference of that many image tokens."""
    modes = {"image": 2, "image_no_markers": 0, "all": 2}  # with the vision markers
    if settings.length_match != "insert" or settings.token_mode not in modes:
        return 0
    return modes[settings.token_mode] + image_tokens - dropped(settings, image_tokens)


def token_budget(settings: Settings, text_tokens: int) -> int:
    """The reference's token budget under the limit on the whole conditioning.

    Raises:
        ZvlError: the prompt alone fills it.
    """
    budget = settings.reference_tokens
    room = MAX_TOKENS - text_tokens
    if inserted_tokens(settings, budget) and room < inserted_tokens(settings, 1):
        raise ZvlError(f"The prompt has {text_tokens} tokens; with image tokens the conditioning may have {MAX_TOKENS}. Shorten it, or use token mode text.")
    while inserted_tokens(settings, budget) > max(room, 0):
        budget -= 1
    return budget


def step_cost(added: int) -> float:
    """Percent of sampling time per step that added tokens cost at 1024 × 1024."""
    for (low, low_cost), (high, high_cost) in pairwise(STEP_COST):
        if added <= high:
            return low_cost + (high_cost - low_cost) * (added - low) / (high - low)
    return STEP_COST[-1][1] * added / STEP_COST[-1][0]
