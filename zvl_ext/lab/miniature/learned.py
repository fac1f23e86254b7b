"""What was fitted for the miniature with little training, and comes with it: by kind and name."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...learned import ENDING
from ...loras import ALPHA
from ...profiles import read_profile
from ...projections import read_projection
from ...tensor_files import read

if TYPE_CHECKING:
    import torch

_HERE = os.path.dirname(os.path.abspath(__file__))
FOLDERS = {"profile": "profiles", "projection": "projections", "lora": "loras"}
READERS: dict[str, Callable[[str], Any]] = {"profile": read_profile, "projection": read_projection}


@dataclass(frozen=True)
class Learned:
    """A file of learned numbers.

    Attributes:
        digest: Of what acts, hexadecimal: the same whatever the file tells of it.
        parameters: How many were learned; of a projection, for each hidden layer.
        seconds: How long that took, with reading what it was learned from; None: it does not tell.
    """

    digest: str
    parameters: int
    seconds: float | None


def files(kind: str) -> dict[str, str]:
    """Those of a kind, name -> path.

    Args:
        kind: A key of FOLDERS.
    """
    folder = os.path.join(_HERE, FOLDERS[kind])
    if not os.path.isdir(folder):
        return {}
    found = sorted(name for name in os.listdir(folder) if name.endswith(ENDING))
    return {name.removesuffix(ENDING): os.path.join(folder, name) for name in found}


@functools.lru_cache(maxsize=8)
def learned(kind: str, name: str) -> Learned:
    """What a file is: it may be fitted anew.

    Raises:
        KeyError: there is none.
        ZvlError: it can't be used.
    """
    path = files(kind)[name]
    tensors, told = read(path)
    seconds = float(told["seconds"]) if "seconds" in told else None
    if kind == "projection":
        projection = READERS[kind](path)
        return Learned(projection.digest, sum(part.numel() for part in next(iter(projection.maps.values()))), seconds)
    numbers = sum(each.numel() for part, each in tensors.items() if not part.endswith(ALPHA))
    return Learned(READERS[kind](path).digest if kind in READERS else digest_of(tensors), numbers, seconds)


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """Of tensors, by their names, shapes and values."""
    made = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        made.update(f"{name}:{list(tensor.shape)}".encode())
        made.update(tensor.float().contiguous().numpy().tobytes())
    return made.hexdigest()
