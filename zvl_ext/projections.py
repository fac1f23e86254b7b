"""Projections: a Qwen3-VL's hidden states as an image model's text encoder would have them, layer by layer.

The states of a Qwen3-VL of another width can't stand beside the text encoder's, and those of the same width need not
mean the same. A projection is an affine map for each hidden layer, fitted on what both make of the same tokens, in a
file. The template's first token is no matter of fitting: no model sees anything before it, so the text encoder's state
there is one row, always the same, and is taken as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ZvlError, shown
from .learned import ENDING, MAKING, About, FromFile, about_of, check_format
from .outside import plain
from .tensor_files import read, save

if TYPE_CHECKING:
    import torch

FORMAT = "zvl-projection-1"
# What is told of a projection in its file, as texts. `model`, `layers` and `fingerprint` are those of the Qwen3-VL that
# it was fitted for, `explained` is JSON.
ABOUT = (
    "image_model", "model", "layers", "fingerprint", "method", "texts", "pictures", "rows", "explained", *MAKING,
)  # fmt: skip
MOST = 16  # hidden layers: of Qwen3-VL-8B each takes 42 MB
_LIMIT = 2**30  # bytes of a file
_WIDEST = 2**15
_FIRST = "first"
_NAME = re.compile(r"(-[1-9]\d{0,2})\.(weight|bias)", re.ASCII)


class Affine(NamedTuple):
    """rows · weight + bias.

    Attributes:
        weight: float32 [hidden, width].
        bias: float32 [width].
    """

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, eq=False)
class Projection(FromFile):
    """Maps by hidden layer.

    Attributes:
        maps: By the layer, counted from the end.
        first: The text encoder's state at the template's first token, float32 [width].
        name: The file's, without its ending.
        digest: SHA-256 of all numbers, hexadecimal.
        about: What is told of it: names out of ABOUT, each with a text.
    """

    maps: Mapping[int, Affine]
    first: torch.Tensor
    name: str = ""
    digest: str = ""
    about: About = ()

    @property
    def hidden(self) -> int:
        """The width of the rows that it takes."""
        return next(iter(self.maps.values())).weight.shape[0]

    @property
    def width(self) -> int:
        """The width of the rows that it makes."""
        return self.first.shape[0]

    def project(self, layer: int, rows: torch.Tensor, holds_first: bool = False) -> torch.Tensor:
        """Rows of a hidden layer, float [m, hidden], as the text encoder's: float32 [m, width].

        Args:
            holds_first: Whether row 0 is the template's first token.
        """
        weight, bias = self.maps[layer]
        made = rows.float() @ weight.to(rows.device) + bias.to(rows.device)
        if holds_first:
            made[0] = self.first.to(rows.device)
        return made

    def check(self, hidden: int, owner: str, fingerprint: str, wanted: Iterable[int]) -> None:
        """Raise ZvlError where it is not for what is read.

        Args:
            hidden: The width of the rows that are read.
            owner: The model that reads, by its name.
            fingerprint: Its own.
            wanted: The hidden layers that are asked for.
        """
        if self.hidden != hidden:
            raise ZvlError(
                f"The projection {shown(self.name)} is for a Qwen3-VL whose states are {self.hidden} wide, and those "
                f"of {owner} are {hidden}. Choose a projection that was fitted for it."
            )
        if (known := self.told("fingerprint")) and known != fingerprint:
            raise ZvlError(
                f"The projection {shown(self.name)} was fitted for {plain(self.told('model')) or 'another Qwen3-VL'}, "
                f"and the weights of {owner} are others. Choose a projection that was fitted for them."
            )
        if missing := [layer for layer in wanted if layer not in self.maps]:
            there = ", ".join(map(str, sorted(self.maps)))
            raise ZvlError(
                f"The projection {shown(self.name)} has hidden layer {there}, not {missing[0]}. Choose one that it "
                f"has, or fit it with --layers={missing[0]}."
            )

    def check_width(self, width: int) -> None:
        """Raise ZvlError where the image model takes rows of another width."""
        if self.width != width:
            raise ZvlError(
                f"The projection {shown(self.name)} makes rows {self.width} wide, and the image model takes {width}. "
                "Choose a projection that was fitted for its text encoder."
            )


def projection_of(
    maps: Mapping[int, Affine], first: torch.Tensor, name: str = "", about: Mapping[str, Any] | None = None
) -> Projection:
    """A projection out of its numbers.

    Args:
        about: Values by names out of ABOUT, as `write_projection`.

    Raises:
        ValueError: they do not go together, or are not finite; why, in a few words.
    """
    if not 0 < len(maps) <= MOST:
        raise ValueError(f"it has {len(maps)} hidden layers; 1 to {MOST} are possible")
    _check(_FIRST, first, 1, (max(first.shape, default=0),))
    hidden = next(iter(next(iter(maps.values())).weight.shape), 0)
    for layer, (weight, bias) in maps.items():
        _check(f"{layer}.weight", weight, 2, (hidden, first.shape[0]))
        _check(f"{layer}.bias", bias, 1, (first.shape[0],))
    ordered = {layer: maps[layer] for layer in sorted(maps)}
    return Projection(ordered, first, name, _digest(ordered, first), about_of(about or {}, ABOUT))


def _check(name: str, tensor: torch.Tensor, axes: int, shape: tuple[int, ...]) -> None:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind != "float32" or tensor.ndim != axes or tuple(tensor.shape) != shape or not 0 < max(shape) <= _WIDEST:
        raise ValueError(f"{name} is {kind} {list(tensor.shape)}; float32 {list(shape)} is needed")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} has values that are not finite")


def _digest(maps: Mapping[int, Affine], first: torch.Tensor) -> str:
    made = hashlib.sha256()
    for layer, each in maps.items():
        made.update(f"{layer}:{list(each.weight.shape)}".encode())
        for tensor in (*each, first):
            made.update((tensor + 0.0).contiguous().numpy().tobytes())  # -0 is 0
    return made.hexdigest()


def read_projection(path: str) -> Projection:
    """Read a projection.

    Raises:
        ZvlError: it can't be read, is none or one of another version, or its tensors are no maps.
    """
    where = plain(path, 120)
    tensors, metadata = read(path, _LIMIT)
    check_format(metadata, FORMAT, where, "zvl fit projection")
    try:
        names = {name: match for name in tensors if (match := _NAME.fullmatch(name))}
        if strange := sorted(set(tensors) - set(names) - {_FIRST}):
            raise ValueError(f"it has a tensor {shown(strange[0])}")
        layers = sorted({int(match[1]) for match in names.values()})
        wanted = [_FIRST, *(f"{layer}.{part}" for layer in layers for part in Affine._fields)]
        if missing := [name for name in wanted if name not in tensors]:
            raise ValueError(f"it has no tensor {missing[0]}")
        maps = {layer: Affine(tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]) for layer in layers}
        return projection_of(maps, tensors[_FIRST], os.path.basename(path).removesuffix(ENDING), metadata)
    except ValueError as error:
        raise ZvlError(
            f"{where} is no projection that can be used: {error}. Fit it again, or choose another."
        ) from None


def write_projection(
    path: str, maps: Mapping[int, Affine], first: torch.Tensor, about: Mapping[str, Any], new: bool = False
) -> Projection:
    """Write a projection, whole or not at all; gives it as `read_projection` does.

    Args:
        about: Values by names out of ABOUT; what is no text is written as JSON.
        new: Never take the place of a file that is there.

    Raises:
        ZvlError: it can't be written, or as `read_projection`.
    """
    try:
        made = projection_of(maps, first, os.path.basename(path).removesuffix(ENDING), about)
    except ValueError as error:
        raise ZvlError(f"{plain(path, 120)} is not written: {error}.") from None
    tensors = {f"{layer}.{part}": getattr(each, part) for layer, each in made.maps.items() for part in Affine._fields}
    tensors = {name: tensor.contiguous() for name, tensor in {**tensors, _FIRST: made.first}.items()}
    save(tensors, path, {"format": FORMAT, **dict(made.about)}, new)
    return made
