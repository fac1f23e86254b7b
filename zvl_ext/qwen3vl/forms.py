"""How the numbers of a tensor are stored: one table from a form's name to what reads it.

The names are those of safetensors' headers (`BF16`, `F8_E4M3`, …) and of GGUF's types (`Q8_0`, `Q4_K`, …), which agree
where they mean the same. What scales a tensor has, and by which groups it was rotated, stands beside its form: `scales`
and `rotation` undo that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import ggml

if TYPE_CHECKING:
    import torch

    # A tensor's bytes, [bytes], and its shape -> its numbers, float or int8.
    Values = Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        values: Makes numbers of bytes.
        numbers: How many numbers a block of it holds; blocks lie along the last axis.
        bytes: How many bytes a block takes.
        packed: Whether a matrix stays in it when it is loaded, a byte for each number.
        scaled: Whether the numbers mean nothing without a scale.
    """

    values: Values
    numbers: int
    bytes: int
    packed: bool = False
    scaled: bool = False


def _as(dtype: str) -> Values:
    """As torch has it."""

    def values(raw: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        return raw.view(getattr(torch, dtype)).reshape(shape)

    return values


FORMS: dict[str, Form] = {
    "BF16": Form(_as("bfloat16"), 1, 2),
    "F16": Form(_as("float16"), 1, 2),
    "F32": Form(_as("float32"), 1, 4),
    "F8_E4M3": Form(_as("float8_e4m3fn"), 1, 1, packed=True),
    "F8_E5M2": Form(_as("float8_e5m2"), 1, 1, packed=True),
    "I8": Form(_as("int8"), 1, 1, packed=True, scaled=True),
    **{name: Form(ggml.values(name), numbers, size) for name, (numbers, size) in ggml.BLOCKS.items()},
}
