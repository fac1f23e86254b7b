"""Weights in eight bits, fp8 or int8, with scales: as files have them and as they are kept in memory."""

from __future__ import annotations

import math

import torch

from .scales import Block, block_of

FP8 = torch.float8_e4m3fn


def dequantize(
    value: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype, block: Block | None = None
) -> torch.Tensor:
    """Eight-bit weights times their scale: one number, one per row or one per block.

    Args:
        value: Of any shape; blocks are of matrices.
        scale: In one of the shapes that `block_of` knows; None where there is none.
        block: Rows and columns of a block, where they are known.
    """
    if scale is None:
        return value.to(dtype)
    block = block or block_of(tuple(value.shape), tuple(scale.shape))
    if block is None:
        raise ValueError(f"a scale of shape {list(scale.shape)} for weights of shape {list(value.shape)}")
    return torch.mul(value.float(), spread(scale.float(), tuple(value.shape), block)).to(dtype)


def spread(scale: torch.Tensor, shape: tuple[int, ...], block: Block) -> torch.Tensor:
    """A scale in a shape that multiplies weights of a shape."""
    if scale.numel() == 1:
        return scale.reshape(())
    rows, columns = block
    if rows == 1 and columns >= math.prod(shape[1:]):
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    scale = scale.reshape(-(-shape[0] // rows), -(-shape[1] // columns))
    return scale.repeat_interleave(rows, 0)[: shape[0]].repeat_interleave(columns, 1)[:, : shape[1]]


def to_fp8(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as fp8 (e4m3) with one float32 scale for each row, [rows, 1]: the row's largest value becomes fp8's
    largest."""
    largest = torch.finfo(FP8).max
    value = value.float()
    scale = value.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / largest
    return (value / scale).clamp(-largest, largest).to(FP8), scale
