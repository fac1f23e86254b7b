"""What tests measure: how far tensors are apart, what hooks a module carries, whether memory is a file's."""

from __future__ import annotations

from pathlib import Path

import torch

TOLERANCE = 1e-4


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    assert got.shape == wanted.shape
    return float((got - wanted).norm() / wanted.norm())


def assert_close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    assert relative_error(got, wanted) <= TOLERANCE


def hooks(module: torch.nn.Module) -> int:
    """The forward hooks of a module and all its parts."""
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def mapped(address: int, file: Path) -> bool:
    """Whether an address lies in the memory that a file is mapped to (Linux)."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(file)):
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            if low <= address < high:
                return True
    return False
