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

from dataclasses import dataclass
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
    share: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """What is added to the attention logits so that each reference gets its weight.

    Args:
        marked: Marks of the keys, float [batch, keys, 2].
        weights: Of the references in their order, at least 0: float [references] or [batch, references], or one for
            each head, [batch or 1, references, heads].
        dtype: Of the result, usually the queries'.
        share: How much of its weight each query gives each reference, in 0..1, float or bool [batch or 1, queries,
            references]; default: all of it.

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
    if share is not None:
        references = torch.arange(1, table.shape[1] - 1, device=marked.device)
        whose = (owner[..., None] == references).float()  # [batch, keys, references]
        less = _logit(share.to(marked.device, torch.float32)) @ whose.transpose(-1, -2)  # [batch, queries, keys]
        return _by_query(result, less, dtype)
    return None if bool((result == 0).all()) else result.to(dtype)


def _by_query(by_key: torch.Tensor, less: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """The sum of [batch, heads or 1, 1, keys] and [batch, queries, keys], as `bias` gives it.

    By head and by query it is by far the largest thing here: 30 · 4,608 · 4,608 · 2 bytes = 1.2 GiB in bfloat16 at
    1024 × 1024. So it is made a head at a time, in its own dtype, and only where references' keys are.
    """
    keys = ((by_key != 0).any(1).any(1) | (less != 0).any(1)).any(0).nonzero()
    if not len(keys):
        return None
    there = slice(int(keys[0]), int(keys[-1]) + 1)  # the references' keys stand beside each other
    made = less.new_zeros((len(less), by_key.shape[1], *less.shape[1:]), dtype=dtype)
    for head in range(by_key.shape[1]):
        made[:, head, :, there] = (by_key[:, head, :, there] + less[:, :, there]).clamp_min(FLOOR)
    return made


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


@dataclass(frozen=True)
class Layout:
    """Where captions and pictures stand in a block's sequence.

    Attributes:
        keys: How many rows the sequence has.
        caption: Where the caption begins.
        picture: Where the picture begins; None where it has no picture.
    """

    keys: int
    caption: int = 0
    picture: int | None = None


class Biases:
    """The biases of one call of the image model, each made once however many blocks ask for it.

    One by head is nobody's but the block's that asks for it, and with a region it is large (`bias`): it is not kept.

    Args:
        marked: Marks of the captions of its batch, float [batch, rows, 2].
        weights: Of each caption's references at this step, float [batch, references].
        regions: How much of its weight each patch of the picture gives each reference, in 0..1, float [batch or 1,
            patches, references]; None: all of it everywhere.
        limited: Which references have a region, bool [batch or 1, references].
    """

    def __init__(
        self,
        marked: torch.Tensor,
        weights: torch.Tensor,
        regions: torch.Tensor | None = None,
        limited: torch.Tensor | None = None,
    ):
        self._marked = marked
        self._weights = weights
        self._regions = regions
        self._limited = limited
        self._made: dict[Any, torch.Tensor | None] = {}

    def of(self, factors: torch.Tensor, layout: Layout, dtype: torch.dtype) -> torch.Tensor | None:
        """The bias of a block, as `bias`.

        Args:
            factors: What the block multiplies the weights with, float [batch or 1, references], or by head, [batch or
                1, references, heads].
        """
        if factors.ndim == 3:
            return self._biased(self._weights[..., None] * factors.to(self._weights), layout, dtype)
        key = (tuple(factors.flatten().tolist()), layout, dtype)
        if key not in self._made:
            self._made[key] = self._biased(self._weights * factors.to(self._weights), layout, dtype)
        return self._made[key]

    def _biased(self, weights: torch.Tensor, layout: Layout, dtype: torch.dtype) -> torch.Tensor | None:
        marked = padded(self._marked, layout.caption, layout.keys)
        return bias(marked, weights, dtype, self._share(marked, layout))

    def _share(self, marked: torch.Tensor, layout: Layout) -> torch.Tensor | None:
        """How much of its weight each query gives each reference, [batch, queries, references]; None: all of it.

        A reference with a region is seen by its own rows and by the picture's patches in the region. Every other row
        would carry it to the whole picture.
        """
        if self._regions is None or self._limited is None:
            return None
        limited = self._limited.to(marked.device).expand(len(marked), -1)
        references = torch.arange(1, limited.shape[1] + 1, device=marked.device)
        own = marked[..., OWNER, None] == references  # [batch, queries, references]
        share = torch.where(limited[:, None] & ~own, 0.0, 1.0)
        if layout.picture is not None:
            patches = self._regions.shape[1]
            share[:, layout.picture : layout.picture + patches] = self._regions.to(share)
        return share


def patches_of(region: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """A region [height, width] on the picture's grid of patches, row by row, float [rows · columns] in 0..1."""
    fitted = torch.nn.functional.interpolate(region.float()[None, None], size=(rows, columns), mode="area")
    return fitted.flatten()


def in_front(marked: torch.Tensor) -> list[int]:
    """How many rows of a block stand in front of each caption's own, from marks [batch, rows, 2]."""
    return [int(rows) for rows in (marked[..., OWNER] != 0).long().cumprod(1).sum(1)]


def filling(rows: int) -> int:
    """How many rows fill a block of that many up to a multiple of MULTIPLE.

    A block that is a multiple leaves the rows that the image model itself fills a caption with as they are without the
    block, and its pictures at the same distance from the text: so a weight towards 0 tends to the plain picture.
    """
    return -rows % MULTIPLE
