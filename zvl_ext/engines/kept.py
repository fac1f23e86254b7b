"""What each kind of kept bundle looks like. What comes from disk may be whole and hold anything: what is not of this
form is read anew, not gone on with."""

from __future__ import annotations

import math

import torch

from ..qwen3vl.checkpoint import Checkpoint
from ..store import Bundle


def sound_pass(bundle: Bundle, checkpoint: Checkpoint, precision: str, tokens: int) -> bool:
    """Whether a bundle is a `Pass` of that many tokens through a checkpoint's language model."""
    if set(bundle) != {"states", "keys", "values"} or bundle["keys"].ndim != 4:
        return False
    config, depth = checkpoint.config["text_config"], bundle["keys"].shape[0]
    states = depth + 1 + (depth == checkpoint.layers)
    cached = (depth, config["num_key_value_heads"], tokens, config["head_dim"])
    shapes = {"states": (states, tokens, checkpoint.hidden_size), "keys": cached, "values": cached}
    dtype = bundle["states"].dtype
    return (
        1 <= depth <= checkpoint.layers
        and str(dtype) in precision.split()
        and all(_is(bundle[name], shape, dtype) for name, shape in shapes.items())
    )


def sound_look(bundle: Bundle, checkpoint: Checkpoint, grid: tuple[int, int]) -> bool:
    """Whether a bundle is what a checkpoint's vision tower makes of a grid, DeepStack's additions included."""
    config = checkpoint.config["vision_config"]
    shape = (1 + len(config["deepstack_visual_indexes"]), math.prod(grid), config["out_hidden_size"])
    return set(bundle) == {"tokens"} and _is(bundle["tokens"], shape, torch.float32)


def sound_states(bundle: Bundle, shape: tuple[int, int]) -> bool:
    """Whether a bundle holds hidden states [tokens, hidden] of layers."""
    return all(_is(states, shape, torch.float32) for states in bundle.values())


def sound_prefix(bundle: Bundle, tokens: int, hidden: int) -> bool:
    """Whether a bundle is what a text encoder leaves of so many tokens: keys and values, and hidden states by layer."""
    states = {name: part for name, part in bundle.items() if name not in ("keys", "values")}
    if not bundle.keys() >= {"keys", "values"} or bundle["keys"].ndim != 4:
        return False
    shape, dtype = (*bundle["keys"].shape[:2], tokens, bundle["keys"].shape[3]), bundle["keys"].dtype
    return all(_is(bundle[name], shape, dtype) for name in ("keys", "values")) and sound_states(
        states, (tokens, hidden)
    )


def _is(tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return tensor.shape == shape and tensor.dtype == dtype and bool(tensor.isfinite().all())
