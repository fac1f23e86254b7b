"""What a weight costs in the attention of one of the image model's blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...attention import bias, filling, marks, padded
from ...options import Settings
from .bench import Row
from .sampling import added_tokens
from .sides import interleaved
from .size import Size
from .weights import DTYPE

PRESET = "Balanced"  # whose rows are weighted


def attention(size: Size, repetitions: int, say: Callable[[str], None]) -> list[Row]:
    """Attention over a whole picture with its caption: as it is, with a weight, and with a weight and a region."""
    say("attention of one block")
    block = added_tokens(PRESET, size.text_tokens)
    block += filling(block)
    caption = block + size.text_tokens
    caption += filling(caption)
    picture = (size.latents // 2) ** 2
    heads, dim = size.transformer["n_heads"], size.transformer["dim"]
    keys = caption + picture
    random = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, heads, keys, dim // heads, generator=random).to(DTYPE)
    owner = (torch.arange(block) < block).float()
    marked = padded(marks(owner, owner)[None], 0, keys)
    weight = torch.tensor([Settings().changed({"preset": PRESET}).weight])
    seen = (torch.arange(keys) % 2 == 0)[None, :, None]  # every other query may attend to the reference
    masks = {
        "naive": None,
        "a weight": bias(marked, weight, DTYPE),
        "a weight and a region": bias(marked, weight, DTYPE, seen),
    }

    @torch.inference_mode()
    def attend(mask: torch.Tensor | None) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    seconds = interleaved({name: lambda n, mask=mask: attend(mask) for name, mask in masks.items()}, repetitions, say)
    note = f"{heads} heads over {caption} + {picture} tokens; the naive side has no mask"
    return [
        Row(f"attention of a block, {name}", "s", seconds["naive"], seconds[name], note=note)
        for name in masks
        if name != "naive"
    ]
