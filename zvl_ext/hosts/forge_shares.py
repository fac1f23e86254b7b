"""How much of the attention a reference gets in one call of the web UI's image model; what comes out stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..attention_shares import AttentionShares, groups_of, shares

COND = 0  # what the web UI's sampler calls the half with the prompts
MOST = 1024  # of a picture's rows, evenly spread, stand for all of them: all would be as much work as the model's own


class Watch:
    """Measures the first picture of a call that has the prompts' half; a call without it is left alone.

    Args:
        found: Gets what is measured.
        step: The sampler's.
        halves: Of which half each part of the call's batch is, in the web UI's numbers.
    """

    def __init__(self, found: AttentionShares, step: int, halves: list[int]):
        self._found, self._step, self._halves = found, step, list(halves)
        self._block = -1  # whose attention is being computed; -1: nobody's who is watched
        self._owners: torch.Tensor | None = None
        self._caption = self._patches = 0

    def begin(self, owners: torch.Tensor, caption: int, patches: int) -> None:
        """The image model is called.

        Args:
            owners: Whose each row of the captions is, [batch, rows, 1].
            caption: Rows of a caption with those that fill it up; the picture's stand behind them.
            patches: Rows of the picture without those that fill it up.
        """
        self._owners, self._caption, self._patches = owners[..., 0].round().long(), caption, patches

    def hooks(self, attentions: list[Any]) -> list[Any]:
        """Hooks on the main blocks' attention, so that it is known which one attends."""
        self._found.blocks = len(attentions)
        begun = [each.register_forward_pre_hook(self._begins(block)) for block, each in enumerate(attentions)]
        return begun + [each.register_forward_hook(self._over) for each in attentions]

    def _begins(self, block: int) -> Callable:
        def begins(module: Any, args: tuple) -> None:
            self._block = block

        return begins

    def _over(self, module: Any, args: tuple, output: Any) -> None:
        self._block = -1

    def seen(self, q: torch.Tensor, k: torch.Tensor, heads: int, mask: torch.Tensor | None, more: dict) -> None:
        """What attention is computed of, as the web UI's functions for it take it: [batch, heads, rows, width] where
        `skip_reshape` says so, else [batch, rows, heads · width]."""
        block, self._block = self._block, -1  # what else a block attends to is not its own attention
        if block < 0 or self._owners is None:
            return
        if not more.get("skip_reshape"):
            q, k = (each.unflatten(2, (heads, -1)).transpose(1, 2) for each in (q, k))
        part = len(q) // len(self._halves)
        for number, half in enumerate(self._halves):
            if half == COND:
                self._measure(block, number * part, q, k, mask)

    def _measure(self, block: int, row: int, q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None) -> None:
        """One picture's, the `row`th of the batch."""
        places = chosen(self._patches, q.device) + self._caption
        groups = groups_of(self._owners[row].cpu(), k.shape[-2])
        bias = mask
        if bias is not None:
            while 1 < bias.ndim < 4:
                bias = bias[:, None]
            bias = bias[row if len(bias) > 1 else 0]
            bias = bias[:, places] if bias.shape[-2] > 1 else bias
        count = self._found.references + 1
        self._found.add(self._step, block, shares(q[row][:, places], k[row], groups, count, bias))


def chosen(patches: int, device: Any = None) -> torch.Tensor:
    """Which of a picture's rows are asked, evenly spread."""
    return torch.linspace(0, patches - 1, min(patches, MOST), device=device).round().long()
