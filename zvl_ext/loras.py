"""LoRA files: two small matrices beside each of some layers of the image model (Hu et al., arXiv 2106.09685).

A file names layers as diffusers does, behind `diffusion_model.`, and tells each one's alpha: of all the ways that are
about, every loader for Z-Image takes this one (Forge Neo, older forks of it, ComfyUI, diffusers from 0.36 on). Where a
web UI has a layer's query, key and value in one matrix, its loader knows which part of it is meant.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ZvlError
from .learned import ENDING, MAKING
from .outside import plain
from .profiles import FITTED_FOR
from .tensor_files import read, save

if TYPE_CHECKING:
    import torch

PREFIX = "diffusion_model."  # in front of a layer's name
DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"  # behind it: [rank, inputs], [outputs, rank], a number
STRONGEST = 10.0

# What is told of a LoRA in its file, as texts; `base_model` is the image model, `gained` is JSON.
ABOUT = (
    "base_model", "width", "rank", "alpha", "layers", *FITTED_FOR, "weight", "curve", "pictures", "steps", "seed",
    "gained", *MAKING,
)  # fmt: skip

_FORMAT = "zvl-lora-1"
_LIMIT = 2**33  # bytes of a file
_LONGEST = 2000  # characters of a text that is told

Pair = tuple["torch.Tensor", "torch.Tensor"]  # down [rank, inputs], up [outputs, rank]


@dataclass(frozen=True)
class Named:
    """A LoRA that is asked for.

    Attributes:
        path: Its file.
        strength: How strongly it acts; 0 is not at all.
    """

    path: str
    strength: float = 1.0

    @property
    def name(self) -> str:
        return os.path.basename(self.path).removesuffix(ENDING)

    @property
    def written(self) -> str:
        """As web UIs write and read it in a prompt."""
        return f"<lora:{plain(self.name, 100)}:{self.strength:g}>"


def named(text: str) -> Named:
    """A LoRA from `FILE` or `FILE:STRENGTH`.

    Raises:
        ZvlError: the strength is out of range.
    """
    path, sign, last = text.rpartition(":")
    try:
        strength = float(last)
    except ValueError:
        sign = ""  # of a Windows drive, say
    if not (sign and path):
        return Named(os.path.expanduser(text))
    if not abs(strength) <= STRONGEST:  # NaN neither
        raise ZvlError(
            f"--lora {plain(text, 120)}: a strength from {-STRONGEST:g} to {STRONGEST:g} is needed, not "
            f"{plain(last, 20)}."
        )
    return Named(os.path.expanduser(path), strength)


def write_lora(path: str, pairs: Mapping[str, Pair], alpha: float, about: Mapping[str, Any]) -> None:
    """Write a LoRA, whole or not at all.

    Args:
        pairs: By diffusers' name of the layer, such as `layers.0.attention.to_q`.
        alpha: Their product counts alpha by rank.
        about: Values by names out of ABOUT; what is no text is written as JSON.

    Raises:
        ZvlError: it can't be written, or has numbers that are not finite.
    """
    import torch

    tensors = {}
    for layer, (down, up) in pairs.items():
        tensors[PREFIX + layer + DOWN] = down.detach().contiguous().cpu()
        tensors[PREFIX + layer + UP] = up.detach().contiguous().cpu()
        tensors[PREFIX + layer + ALPHA] = torch.tensor(float(alpha))
    texts = {name: about[name] for name in ABOUT if name in about}
    told = {name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()}
    save(tensors, path, {"format": "pt", "zvl_format": _FORMAT, **{n: plain(t, _LONGEST) for n, t in told.items()}})


def read_lora(path: str) -> dict[str, torch.Tensor]:
    """The tensors of anyone's LoRA file, under the names that it has.

    Raises:
        ZvlError: it can't be read, or is no LoRA.
    """
    tensors, _ = read(path, _LIMIT)
    if not any("lora" in name.lower() for name in tensors):
        raise ZvlError(f"{plain(path, 120)} is no LoRA: no tensor in it is named as one.")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ZvlError(f"{plain(path, 120)} has values that are not finite, in {plain(name, 80)}. It is not used.")
    return tensors
