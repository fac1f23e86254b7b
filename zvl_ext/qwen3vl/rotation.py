"""ConvRot: weights whose inputs are rotated by groups with a Hadamard matrix, so that outliers spread.

From arXiv 2512.03673 (theorem 3.3), as ComfyUI (comfy-kitchen, `int8_utils`) and musubi-tuner store it: the rotated
weight is W Hᵀ by groups along the inputs, with the regular Hadamard matrix of a power of four. H is symmetric and its
own inverse, so that W Hᵀ and x meet again where x is rotated too, and W comes back when it is rotated once more.
"""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=8)
def hadamard(size: int) -> torch.Tensor:
    """The regular Hadamard matrix as a rotation, float32 [size, size]; the rows of each of its factors sum to 2."""
    four = torch.tensor([[1.0, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix


def rotate(value: torch.Tensor, group: int) -> torch.Tensor:
    """Rotate groups of the last axis. Twice is as if nothing had been done."""
    matrix = hadamard(group).to(value)
    turned: torch.Tensor = value.reshape(*value.shape[:-1], -1, group) @ matrix
    return turned.reshape(value.shape)
