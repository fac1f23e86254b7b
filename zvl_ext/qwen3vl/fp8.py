"""Weights in eight bits: fp8 with scales, as files have them and as they are kept in memory."""

from __future__ import annotations

import torch

FP8 = torch.float8_e4m3fn
_BLOCK = 128  # side of the squares that Qwen's own fp8 files have a scale for


def _has_blocks(shape: tuple[int, ...], scale: torch.Tensor) -> bool:
    return (
        len(shape) == scale.ndim == 2
        and scale.numel() > 1
        and scale.shape == tuple(-(-side // _BLOCK) for side in shape)
    )


def scale_fits(shape: tuple[int, ...], scale: torch.Tensor) -> bool:
    return scale.numel() in (1, shape[0]) or _has_blocks(shape, scale)


def dequantize(value: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """fp8 weights times their scale: one number, one per row, or one per block of 128 × 128 (Qwen's own fp8 files)."""
    if scale is None:
        return value.to(dtype)
    value, scale = value.float(), scale.float()
    if _has_blocks(value.shape, scale):
        scale = scale.repeat_interleave(_BLOCK, 0).repeat_interleave(_BLOCK, 1)[: value.shape[0], : value.shape[1]]
    else:
        scale = scale.reshape(-1, *[1] * (value.ndim - 1)) if scale.numel() > 1 else scale.reshape(())
    return torch.mul(value, scale).to(dtype)


def to_fp8(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix as fp8 (e4m3) with one float32 scale for each row, [rows, 1]: the row's largest value becomes fp8's
    largest."""
    largest = torch.finfo(FP8).max
    value = value.float()
    scale = value.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / largest
    return (value / scale).clamp(-largest, largest).to(FP8), scale
