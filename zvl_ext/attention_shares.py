"""How much of the image model's attention a reference's rows get. Pure functions on tensors.

A query's attention to a group of keys is the sum of their softmax weights: between 0 and 1, and over all keys 1. Its
mean over the heads and the picture's queries says how strongly the picture looks at the group, in one block at one
step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

NOBODY = -1  # the group of keys that nobody asks about
PROMPT = 0  # the group of the prompt's own rows; references are 1, 2, ... as in marks
_LOGITS = 2**25  # at a time: 128 MiB in float32


def shares(
    query: torch.Tensor,
    key: torch.Tensor,
    groups: torch.Tensor,
    count: int,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    logits: int = _LOGITS,
) -> torch.Tensor:
    """The share of the attention that each group of keys gets, averaged over heads and queries.

    Exact softmax in float32, some queries at a time.

    Args:
        query: float [heads, queries, width].
        key: float [heads or fewer, keys, width]; fewer are shared by neighbouring heads.
        groups: int [keys], the group that each key is in, 0 to count - 1; others are in none.
        count: How many groups there are.
        bias: What is added to the logits, or bool, True where a key may be attended to: broadcastable to [heads,
            queries, keys]. Default: nothing.
        scale: Of the logits; default: 1 / sqrt(width).
        logits: How many are in memory at once, at most, but for one query's.

    Returns:
        float64 [count], on the CPU.
    """
    heads, queries, width = query.shape
    key = key.float().repeat_interleave(heads // len(key), 0).transpose(1, 2)
    scale = width**-0.5 if scale is None else scale
    whose = (groups.to(query.device)[:, None] == torch.arange(count, device=query.device)).float()  # [keys, count]
    total = torch.zeros(count, dtype=torch.float64, device=query.device)
    step = max(1, logits // (heads * key.shape[2]))
    for start in range(0, queries, step):
        end = min(start + step, queries)
        weight = scale * (query[:, start:end].float() @ key)
        if bias is not None:
            own = bias[..., start:end, :] if bias.shape[-2] > 1 else bias
            weight = weight.masked_fill(~own, -torch.inf) if own.dtype == torch.bool else weight + own.float()
        total += (weight.softmax(-1) @ whose).sum((0, 1), dtype=torch.float64)
    return (total / (heads * queries)).cpu()


def groups_of(owners: torch.Tensor, keys: int, start: int = 0) -> torch.Tensor:
    """The groups of a block's keys, int64 [keys].

    Args:
        owners: Whose each row of the caption is (`Conditioning.owners`).
        start: Where the caption begins among the keys.
    """
    groups = torch.full((keys,), NOBODY)
    groups[start : start + len(owners)] = owners.to(groups)
    return groups


@dataclass
class AttentionShares:
    """What is measured over the sampling of one picture.

    Attributes:
        references: How many it has.
        blocks: How many main blocks the image model has; 0 until it is asked.
        steps: By step and block the share of each group, and how often it was measured: a sampler may ask more than
            once.
    """

    references: int = 1
    blocks: int = 0
    steps: dict[int, dict[int, tuple[torch.Tensor, int]]] = field(default_factory=dict)

    def add(self, step: int, block: int, measured: torch.Tensor) -> None:
        """Take in what a block at a step gives each group (`shares`)."""
        of_step = self.steps.setdefault(step, {})
        total, times = of_step.get(block, (torch.zeros_like(measured), 0))
        of_step[block] = total + measured, times + 1

    def of(self, group: int) -> list[list[float]]:
        """What a group gets, by block and step; NaN where nothing was measured."""
        return [
            [
                float(of_step[block][0][group] / of_step[block][1]) if block in of_step else float("nan")
                for _, of_step in sorted(self.steps.items())
            ]
            for block in range(self.blocks)
        ]

    @property
    def whole(self) -> bool:
        """Whether every block was measured at every step."""
        return bool(self.steps) and all(len(of_step) == self.blocks for of_step in self.steps.values())
