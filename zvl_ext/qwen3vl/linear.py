"""Linear layers whose weights are kept in one dtype and computed with in another."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator

import torch

from .fp8 import dequantize
from .rotation import rotate
from .scales import Block

# Rows from which bfloat16 weights on a CPU with instructions for them are faster cast to float32 (1.5 times at 260
# rows, 1.8 at 1000, 0.8 at 46); where there are no such instructions it is always, with matrix units (AMX) never.
ENOUGH_ROWS = 128


class Linear(torch.nn.Linear):
    """A linear layer of the dtype that comes in, whatever its weight is kept in.

    A weight in eight bits is cast for each use, with its buffer `scale` (None where there is none). In bfloat16 on a
    CPU the sums are made in float32 where that is faster.

    Attributes:
        scale: Of a weight in eight bits.
        block: Rows and columns of the weight that share a number of the scale.
        rotation: By groups of how many inputs the weight is rotated, 0 for not: what comes in is rotated then, which is
            far less than the weight.
    """

    scale: torch.Tensor | None  # no value here: a buffer of that name could not be registered
    block: Block | None = None
    rotation: int = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if weight.dtype.itemsize == 1:
            weight = dequantize(weight, self.scale, x.dtype, self.block)
        if self.rotation:
            x = rotate(x, self.rotation)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.numel() // x.shape[-1] >= float32_from():
            bias = None if self.bias is None else self.bias.float()
            return torch.nn.functional.linear(x.float(), _float32(weight), bias).to(x.dtype)
        return torch.nn.functional.linear(x, weight, self.bias)


def adopt(module: torch.nn.Module) -> None:
    """Let all linear layers of a module compute as `Linear`; they keep their weights, names and places."""
    for part in module.modules():
        if type(part) is torch.nn.Linear:
            part.__class__ = Linear


@functools.cache
def float32_from() -> int:
    """Rows from which this CPU is faster in float32 than in bfloat16."""

    def has(feature: str) -> bool:
        return bool(getattr(torch.cpu, feature, lambda: False)())

    if has("_is_amx_tile_supported"):
        return sys.maxsize
    return ENOUGH_ROWS if has("_is_avx512_bf16_supported") else 0


class _Scratch(threading.local):
    memory: torch.Tensor | None = None


_SCRATCH = _Scratch()


@contextlib.contextmanager
def float32_memory() -> Iterator[None]:
    """Cast weights into one piece of memory for the time of a run: new memory for each would cost as much as the
    casting."""
    outer = _SCRATCH.memory
    _SCRATCH.memory = torch.empty(0) if outer is None else outer
    try:
        yield
    finally:
        _SCRATCH.memory = outer


def _float32(weight: torch.Tensor) -> torch.Tensor:
    if _SCRATCH.memory is None:
        return weight.float()
    if _SCRATCH.memory.numel() < weight.numel():
        _SCRATCH.memory = torch.empty(weight.numel())
    return _SCRATCH.memory[: weight.numel()].view(weight.shape).copy_(weight)
