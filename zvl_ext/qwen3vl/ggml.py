"""GGUF's quantized numbers. The `gguf` package makes numbers of them: the web UIs bring it, pip has it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError

if TYPE_CHECKING:
    import torch

# GGUF's types as the files number them (ggml.h).
TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    30: "BF16",
    39: "MXFP4",
}
# How many numbers a block of a quantized type holds, and how many bytes it takes.
BLOCKS = {
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ2_XXS": (256, 66),
    "IQ2_XS": (256, 74),
    "IQ3_XXS": (256, 98),
    "IQ1_S": (256, 50),
    "IQ4_NL": (32, 18),
    "IQ3_S": (256, 110),
    "IQ2_S": (256, 82),
    "IQ4_XS": (256, 136),
    "IQ1_M": (256, 56),
    "MXFP4": (32, 17),
}
_ROWS = 1024  # are made at a time: the package takes several times the memory of its result


def package(name: str) -> Any:
    """The `gguf` package, imported on first use.

    Raises:
        ZvlError: it is not there.
    """
    try:
        import gguf
    except ImportError as error:
        raise ZvlError(
            f"{name}: GGUF files need the Python package gguf. Install it in the web UI's environment: python -m pip "
            "install gguf. Or choose a .safetensors file."
        ) from error
    return gguf


@functools.cache
def readable(form: str) -> bool:
    """Whether the installed package makes numbers of a quantized type."""
    import gguf
    import numpy as np

    try:
        gguf.quants.dequantize(np.zeros((1, BLOCKS[form][1]), np.uint8), gguf.GGMLQuantizationType[form])
    except (NotImplementedError, KeyError, AttributeError):
        return False
    return True


def values(form: str) -> Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]:
    """What makes float32 numbers of a quantized type's bytes."""

    def numbers(raw: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        import gguf
        import torch

        count, size = BLOCKS[form]
        rows = raw.numpy().reshape(math.prod(shape[:-1]), shape[-1] // count * size)
        made = torch.empty(len(rows), shape[-1])
        for first in range(0, len(rows), _ROWS):
            part = gguf.quants.dequantize(rows[first : first + _ROWS], gguf.GGMLQuantizationType[form])
            made[first : first + _ROWS] = torch.from_numpy(part)
        return made.reshape(shape)

    return numbers
