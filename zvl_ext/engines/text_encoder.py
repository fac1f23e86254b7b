"""A text encoder as engine splice's language model: one pass over embeddings, and Qwen3-VL's way to count positions.

- `sequential`: one position after another, as the text encoder counts words. Nothing of the text encoder is touched.
- `mrope`: time, row and column as in Qwen3-VL, and DeepStack's additions after the first layers. The rotary tables are
  replaced and the additions made by hooks on the layers, for the time of one pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from ..qwen3vl.layers import added_after, layers_between, recorded, replaced_argument
from ..qwen3vl.modules import Layered
from .sources import ImageTokens


def mrope_tables(
    positions: torch.Tensor, head_dim: int, theta: float, section: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of interleaved MRoPE, float32 [tokens, head_dim], both halves alike (Qwen3-VL's rotary
    embedding).

    Args:
        positions: [3, tokens]: time, row, column.
        section: How many of the head_dim / 2 frequencies belong to each of the three; rows and columns take every third
            frequency from the second and the third on, time has the others.
    """
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = positions.float()[..., None].cpu() * inverse  # [3, tokens, head_dim / 2]
    mixed = angles[0].clone()
    for axis in (1, 2):
        mixed[:, axis : section[axis] * 3 : 3] = angles[axis][:, axis : section[axis] * 3 : 3]
    both = torch.cat([mixed, mixed], dim=-1)
    return both.cos(), both.sin()


@torch.inference_mode()
def states_at(
    model: Layered, first: int, indices: Iterable[int], forward: Callable[[], torch.Tensor]
) -> dict[int, torch.Tensor]:
    """One pass of a text encoder over the layers from `first` on, no deeper than needed.

    Args:
        model: Has `layers`.
        indices: As in transformers' `hidden_states`, larger than `first`.
        forward: Calls the model; returns its last state after the final norm, [1, tokens, hidden].

    Returns:
        float32 [tokens, hidden] on the CPU, by index.
    """
    indices, count = set(indices), len(model.layers)
    with (
        layers_between(model, first, max(indices)),
        recorded(model, {k - 1 - first: k for k in indices if k < count}) as states,
    ):
        last = forward()
    if count in indices:
        states[count] = last
    return {k: state[0].float().cpu() for k, state in states.items()}


@contextlib.contextmanager
def as_qwen3vl(
    layers: Iterable[torch.nn.Module],
    image: ImageTokens,
    positions: list[int],
    argument: str,
    tables: Callable[[Any], Any],
) -> Iterator[None]:
    """Let a text encoder's layers count positions as Qwen3-VL does and take DeepStack's additions, while the context is
    open.

    Args:
        positions: Those of the image tokens.
        argument: The keyword under which the layers get their rotary tables.
        tables: MRoPE's tables in the form of those it is given.
    """
    with replaced_argument(layers, argument, tables), added_after(layers, image.deepstack, positions):
        yield
