"""Weighted attention in diffusers' Z-Image while its weights are learned: each picture of a batch is at a step of its
own, and every head has a log-weight, through which gradients go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ..conditioning import Conditioning
from ..factors import Factors, factors_of
from .standalone_attention import Run


@contextlib.contextmanager
def learning(
    transformer: torch.nn.Module,
    conditionings: Sequence[Conditioning],
    ways: Sequence[float],
    main: torch.Tensor,
    refiner: torch.Tensor,
) -> Iterator[None]:
    """Let the image model look at references as their conditionings say, times each head's weight.

    The context stays open until the gradients are there: with gradient checkpointing the blocks run again for them.

    Args:
        transformer: diffusers' ZImageTransformer2DModel, called once.
        conditionings: Of its batch.
        ways: The share of the steps that are done, of each.
        main, refiner: Log-weights [blocks, heads] of the main blocks and of those that refine the caption.
    """
    run = _Learning(transformer, list(conditionings), list(ways), main, refiner)
    run.install()
    try:
        yield
    finally:
        run.remove()


class _Learning(Run):
    """One batch, which is run once."""

    def __init__(
        self,
        transformer: Any,
        conditionings: list[Conditioning],
        ways: list[float],
        main: torch.Tensor,
        refiner: torch.Tensor,
    ):
        super().__init__(transformer, conditionings, steps=1)
        self._ways = ways
        weightings = [[part.weighting for part in each.parts] for each in conditionings]
        own = factors_of(weightings, len(main), len(refiner))
        self._factors = Factors(_times(own.refiner, refiner), _times(own.main, main))

    def _done(self) -> list[float]:
        return self._ways


def _times(factors: list[torch.Tensor], tables: torch.Tensor) -> list[torch.Tensor]:
    """Each block's factors [batch, references] times its heads' weights, [batch, references, heads]."""
    return [own.to(table)[..., None] * table.exp() for own, table in zip(factors, tables)]
