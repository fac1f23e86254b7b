"""How many tokens the conditioning gets and what they cost, and the memory that reading takes. Plain arithmetic on
settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from .engines import ENGINES
from .errors import ZvlError
from .hidden_layers import hidden_layers
from .options import PROMPT, Settings
from .qwen3vl.forms import FORMS
from .sequence import TOKEN_MODES

if TYPE_CHECKING:
    from .qwen3vl.checkpoint import Checkpoint, Stored

# Z-Image was trained with captions of up to 512 tokens; twice that is as far as its conditioning should be stretched.
MAX_TOKENS = 1000
# Added tokens -> added time per sampling step at 1024 × 1024, in percent: from counting operations of Z-Image's
# transformer.
STEP_COST = ((0, 0.0), (256, 7.0), (576, 16.0), (1024, 29.0))


def dropped(settings: Settings, image_tokens: int) -> int:
    """How many of N image tokens image dropout leaves out: floor(share · N), at least one stays."""
    return max(0, min(int(settings.image_dropout * image_tokens + 1e-9), image_tokens - 1))


def inserts(settings: Settings) -> bool:
    """Whether rows of the reference stand beside the prompt's: only there can the image model's attention be
    weighted."""
    return settings.length_match == "insert" and TOKEN_MODES[settings.token_mode].image


def lengths_agree(settings: Settings) -> bool:
    """Whether there are as many rows as the prompt has, so that there is no length to match."""
    return settings.token_mode == "text" and settings.vl_prompt == PROMPT


def merged(settings: Settings, image_tokens: int) -> int:
    """How many rows are left of N image tokens when neighbours are merged, of a square."""
    side = math.sqrt(image_tokens)
    return min(image_tokens, math.ceil(side / settings.merge) ** 2)


def inserted_tokens(settings: Settings, image_tokens: int, narrow: bool = False) -> int:
    """How many tokens the conditioning grows by with a reference of that many image tokens.

    Args:
        narrow: Take the reference for a strip, of which merging leaves the most; otherwise for a square.
    """
    if not inserts(settings):
        return 0
    left = math.ceil(image_tokens / settings.merge) if narrow else merged(settings, image_tokens)
    return 2 * TOKEN_MODES[settings.token_mode].markers + left - dropped(settings, left)


def token_budget(settings: Settings, text_tokens: int, references: int = 1) -> int:
    """The reference's token budget under the limit on the whole conditioning.

    Args:
        references: How many references share what the prompt leaves.

    Raises:
        ZvlError: the prompt alone fills it.
    """
    budget = settings.reference_tokens
    room = (MAX_TOKENS - text_tokens) // references
    if inserts(settings) and room < inserted_tokens(settings, 1):
        raise ZvlError(
            f"The prompt has {text_tokens} tokens; with image tokens the conditioning may have {MAX_TOKENS}. Shorten "
            "it, or use token mode text."
        )
    while inserted_tokens(settings, budget, narrow=True) > max(room, 0):
        budget -= 1
    return budget


def read_together(settings: Settings) -> int:
    """How many image tokens one pass reads at most."""
    return settings.reference_tokens * (max(1, len(settings.units)) if settings.combine == "in turn" else 1)


def step_cost(added: int) -> float:
    """Percent of sampling time per step that added tokens cost at 1024 × 1024."""
    for (low, low_cost), (high, high_cost) in pairwise(STEP_COST):
        if added <= high:
            return low_cost + (high_cost - low_cost) * (added - low) / (high - low)
    return STEP_COST[-1][1] * added / STEP_COST[-1][0]


# --- memory


@dataclass(frozen=True)
class Memory:
    """What reading a reference takes, and what there is, in bytes.

    Attributes:
        needed: The weights and what a pass needs besides.
        card: All memory of the graphics card that is to read it; None for the CPU.
        free: Main memory that is free for it; None where nobody knows.
    """

    needed: int
    card: int | None = None
    free: int | None = None


def language_depth(settings: Settings, layers: int) -> int:
    """How many of the language model's layers run for engine blend: from 0 to all, also for a layer that does not
    exist."""
    return min(max(layers + hidden_layers(settings).every[-1] + 1, 0), layers)


def weight_bytes(checkpoint: Checkpoint, settings: Settings, itemsize: int = 2) -> int:
    """Bytes of the weights that are held for a read.

    The input embedding is not among them: it stays in the file, where a token's row is looked up.

    Args:
        itemsize: Bytes of a number in the dtype that is computed in.
    """
    tower = checkpoint.count("visual.") * itemsize
    if not ENGINES[settings.engine].language_model:
        return tower
    held = (
        "language_model.norm.",
        *(f"language_model.layers.{i}." for i in range(language_depth(settings, checkpoint.layers))),
    )
    language = (stored for name, stored in checkpoint.tensors.items() if name.startswith(held))
    return tower + sum(_held(stored, settings.storage == "fp8", itemsize) for stored in language)


def head_bytes(checkpoint: Checkpoint, itemsize: int = 2) -> int:
    """Bytes of what is held besides all layers to write a text; as `weight_bytes`."""
    return math.prod(checkpoint.tensors[checkpoint.head].shape) * itemsize


def _held(stored: Stored, fp8: bool, itemsize: int) -> int:
    """A matrix in eight bits takes a byte for each number and a float32 scale for each row. What GGUF has quantized is
    written out."""
    form = FORMS.get(stored.dtype)
    if len(stored.shape) == 2 and (fp8 or (form is not None and form.packed)):
        return math.prod(stored.shape) + 4 * stored.shape[0]
    return math.prod(stored.shape) * itemsize


def working_bytes(tokens: int) -> int:
    """Bytes that a pass needs besides the weights: 0.25 GiB for the vision tower, 0.5 MiB for every token."""
    return 2**28 + tokens * 2**19
