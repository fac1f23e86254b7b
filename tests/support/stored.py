"""What tests of the store put into it, and the files they look for."""

import hashlib
import os
from pathlib import Path

import torch

from zvl_ext.store import Disk

ROW = {"row": torch.zeros(1000)}  # 4000 bytes
KEY = ("blend", ("a" * 64, 3), ((1, 2, 3), "x"), -8)


def row(value: float, length: int = 1000) -> dict[str, torch.Tensor]:
    return {"row": torch.full((length,), float(value))}


def same(one: dict[str, torch.Tensor] | None, other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit: NaN equals NaN, 0 is not -0."""

    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return one is not None and {n: (t.dtype, t.shape, bits(t)) for n, t in one.items()} == {
        n: (t.dtype, t.shape, bits(t)) for n, t in other.items()
    }


def file_of(disk: Disk, key: object = KEY) -> Path:
    """The file that an entry is kept in."""
    return Path(disk.folder) / f"{hashlib.sha256(repr(key).encode()).hexdigest()}.zvl.safetensors"


def names(disk: Disk) -> set[str]:
    """All files of the folder."""
    return set(os.listdir(disk.folder))
