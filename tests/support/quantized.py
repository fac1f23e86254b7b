"""The forms in which quantized files store a matrix, written down from their definitions: what is stored, and what it
means in float64."""

from __future__ import annotations

from collections.abc import Callable

import tiny
import torch

Parts = dict[str, torch.Tensor]  # by the ending that follows the layer's name


def hadamard(size: int) -> torch.Tensor:
    """Entry by entry: a Kronecker power of ConvRot's four by four matrix, whose only -1 of row i is in column 3 - i."""
    matrix = torch.empty(size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            digits = 0
            for power in range(10):
                digits += (i >> 2 * power) % 4 + (j >> 2 * power) % 4 == 3
            matrix[i, j] = (-1) ** digits
    return matrix / size**0.5


def rotated(value: torch.Tensor, group: int) -> torch.Tensor:
    """Each group of inputs times the transposed matrix."""
    parts = value.double().split(group, dim=1)
    return torch.cat([part @ hadamard(group).T for part in parts], dim=1)


def _rounded(value: torch.Tensor, scale: torch.Tensor, form: str) -> torch.Tensor:
    if form == "int8":
        return (value / scale).round().clamp(-127, 127).to(torch.int8)
    return (value / scale).clamp(-448, 448).to(torch.float8_e4m3fn)


def _scale(largest: torch.Tensor, form: str) -> torch.Tensor:
    return (largest / (127 if form == "int8" else 448)).float()


def tensorwise(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
    scale = _scale(value.abs().max(), form)
    stored = _rounded(value, scale, form)
    return {"weight": stored, "weight_scale": scale}, stored.double() * scale.double()


def rowwise(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
    scale = _scale(value.abs().amax(1, keepdim=True), form)
    stored = _rounded(value, scale, form)
    return {"weight": stored, "weight_scale": scale}, stored.double() * scale.double()


def blockwise(height: int, width: int) -> Callable[[torch.Tensor, str], tuple[Parts, torch.Tensor]]:
    """Blocks of a size, cut off at the edges."""

    def make(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
        rows, columns = -(-value.shape[0] // height), -(-value.shape[1] // width)
        scale, spread = torch.empty(rows, columns), torch.empty(value.shape)
        for i in range(rows):
            for j in range(columns):
                place = (slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
                scale[i, j] = _scale(value[place].abs().max(), form)
                spread[place] = scale[i, j]
        stored = _rounded(value, spread, form)
        return {"weight": stored, "weight_scale": scale}, stored.double() * spread.double()

    return make


def in_runs(length: int) -> Callable[[torch.Tensor, str], tuple[Parts, torch.Tensor]]:
    """As musubi-tuner has it: a scale [rows, blocks, 1] under its older name."""

    def make(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
        parts, meant = blockwise(1, length)(value, form)
        return {"weight": parts["weight"], "scale_weight": parts["weight_scale"][..., None]}, meant

    return make


def noted(make: Callable, **note: object) -> Callable[[torch.Tensor, str], tuple[Parts, torch.Tensor]]:
    """The same with a `.comfy_quant` beside it."""

    def with_note(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
        parts, meant = make(value, form)
        return {**parts, "comfy_quant": tiny.as_bytes(note)}, meant

    return with_note


def turned(make: Callable, group: int) -> Callable[[torch.Tensor, str], tuple[Parts, torch.Tensor]]:
    """Rotated by groups before it is quantized; what it means is rotated back."""

    def with_rotation(value: torch.Tensor, form: str) -> tuple[Parts, torch.Tensor]:
        parts, meant = make(rotated(value, group).float(), form)
        return parts, torch.cat([part @ hadamard(group) for part in meant.split(group, dim=1)], dim=1)

    return with_rotation


def store(state: dict[str, torch.Tensor], make: Callable, form: str) -> tuple[Parts, dict[str, torch.Tensor]]:
    """All matrices of the language model's layers in a form: what is saved, and what it means."""
    stored, meant = {}, {}
    for name, value in state.items():
        if not tiny.is_linear(name, value):
            stored[name], meant[name] = value, value.double()
            continue
        parts, meant[name] = make(value, form)
        stored |= {name.removesuffix("weight") + ending: part.contiguous() for ending, part in parts.items()}
    return stored, meant
