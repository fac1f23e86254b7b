"""Weighting the image model's attention to some rows of its conditioning. Pure functions on tensors.

Adding log(w) to the logits of a key multiplies its share of every query's attention by w, before the shares are made to
sum to one again: softmax(s + log w) = w · exp(s) / sum. So a weight has a meaning: 1 is as the model does by itself, 0
as if the row was not there. A row that stands for k others has k times the weight (proportional attention, Bolya et
al., arXiv 2210.09461).

Which rows are whose is said by marks, float32 [rows, 2]: whose the row is (0 nobody's: the prompt's own; 1, 2, ... a
reference's; FILL: nothing's) and how many rows it stands for. Marks travel with the conditioning, wherever a host
stacks, repeats or pads it; a row that a host adds has marks of 0.
"""

from __future__ import annotations

from typing import Any

import torch

OWNER, COUNT = 0, 1  # columns of marks
FILL = -1.0  # rows that are there only to fill a block: nobody may attend to them
FLOOR = -1e4  # a logit that leaves nothing of its key, and that float16 and bfloat16 can hold
_SMALLEST = 1e-30  # of a weight that is not 0
MULTIPLE = 32  # the image model fills its captions to a multiple of this with rows of its own


def marks(owner: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Marks [rows, 2] from whose each row is [rows] and how many it stands for [rows]."""
    return torch.stack([owner.float(), count.float()], dim=-1)


def bias(
    marked: torch.Tensor,
    weights: torch.Tensor,
    dtype: torch.dtype,
    seen: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """What is added to the attention logits so that each reference gets its weight.

    Args:
        marked: Marks of the keys, float [batch, keys, 2].
        weights: Of the references in their order, at least 0: float [references] or [batch, references], or one for
            each head, [batch or 1, references, heads].
        dtype: Of the result, usually the queries'.
        seen: Which queries may attend to which references, bool [batch or 1, queries, references]; default: all to all.

    Returns:
        [batch, heads or 1, queries or 1, keys], or None where nothing is changed: there the model has to run as it
        always does. Finite in every floating dtype; a weight of 0 gives FLOOR.
    """
    table = weights.to(marked.device, torch.float32)
    table = table[None] if table.ndim == 1 else table
    table = table[..., None] if table.ndim == 2 else table  # [batch or 1, references, heads or 1]
    owner, count = marked[..., OWNER].round().long(), marked[..., COUNT].float()
    # The weights of nobody's rows and of rows that fill stand before and behind the references' own.
    ends = torch.ones_like(table[:, :1]), torch.zeros_like(table[:, :1])
    table = torch.cat([ends[0], table, ends[1]], dim=1).expand(len(owner), -1, -1)  # FILL, -1, is the last
    weight = table.gather(1, owner.remainder(table.shape[1])[..., None].expand(-1, -1, table.shape[2]))
    weight = torch.where((owner > 0)[..., None], weight * count[..., None], weight)  # [batch, keys, heads or 1]
    result = _logit(weight).permute(0, 2, 1)[:, :, None]  # [batch, heads or 1, 1, keys]
    if seen is not None:
        # [batch, keys, references]
        whose = torch.nn.functional.one_hot(owner.clamp_min(0), table.shape[1] - 1)[..., 1:]
        hidden = (~seen).float() @ whose.transpose(-1, -2).float() > 0  # [batch, queries, keys]
        result = torch.where(hidden[:, None], FLOOR, result)
    return None if bool((result == 0).all()) else result.to(dtype)


def _logit(weight: torch.Tensor) -> torch.Tensor:
    return weight.clamp_min(_SMALLEST).log().masked_fill(weight <= 0, FLOOR)


def masked(bias: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A bias together with a mask that is there already.

    Args:
        bias: [batch, heads or 1, queries or 1, keys].
        mask: None; bool, True where a key may be attended to; or a float to be added. Of [batch, keys], [batch,
            queries, keys], or broadcastable to the bias.
    """
    if mask is None:
        return bias
    while 1 < mask.ndim < bias.ndim:
        mask = mask[:, None]
    if mask.dtype != torch.bool:
        # Where a mask hides all keys of a row, as of one that only fills, its sum must not be -inf: that row would
        # become NaN. It is added in float32, and kept within what the dtype holds.
        lowest = torch.finfo(bias.dtype).min
        return (bias.float() + mask.float()).clamp_min(lowest).to(bias.dtype)
    return bias.masked_fill(~mask, FLOOR)


def padded(marked: torch.Tensor, before: int, keys: int) -> torch.Tensor:
    """Marks [batch, rows, 2] of a caption as marks [batch, keys, 2] of a sequence in which `before` rows stand in front
    of it."""
    return torch.nn.functional.pad(marked, (0, 0, before, keys - before - marked.shape[1]))


class Biases:
    """The biases of one call of the image model, each made once however many blocks ask for it.

    Args:
        marked: Marks of the captions of its batch, float [batch, rows, 2].
        weights: Of each caption's reference at this step, float [batch].
    """

    def __init__(self, marked: torch.Tensor, weights: torch.Tensor):
        self._marked = marked
        self._weights = weights
        self._made: dict[Any, torch.Tensor | None] = {}

    def of(self, factors: torch.Tensor, before: int, keys: int, dtype: torch.dtype) -> torch.Tensor | None:
        """The bias of a block, as `bias`.

        Args:
            factors: What the block multiplies the weights with, float [batch] or [].
            before: How many rows of its sequence stand in front of the caption.
            keys: How many rows its sequence has.
        """
        key = (tuple(factors.flatten().tolist()), before, keys, dtype)
        if key not in self._made:
            weights = (self._weights * factors.to(self._weights))[:, None]
            self._made[key] = bias(padded(self._marked, before, keys), weights, dtype)
        return self._made[key]


def in_front(marked: torch.Tensor) -> list[int]:
    """How many rows of a block stand in front of each caption's own, from marks [batch, rows, 2]."""
    return [int(rows) for rows in (marked[..., OWNER] != 0).long().cumprod(1).sum(1)]


def filling(rows: int) -> int:
    """How many rows fill a block of that many up to a multiple of MULTIPLE.

    A block that is a multiple leaves the rows that the image model itself fills a caption with as they are without the
    block, and its pictures at the same distance from the text: so a weight towards 0 tends to the plain picture.
    """
    return -rows % MULTIPLE
