"""Profiles: a few learned numbers that a weight multiplies, one for each head of the image model's blocks.

Heads divide the work: some carry a reference into the picture without fighting the prompt, others do not. A profile
says which, as log-weights by block and head, in a file of kilobytes. It is about one image model, and was fitted for
one way of reading references.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ZvlError, shown
from .learned import ENDING, MAKING, About, FromFile, about_of, check_format
from .outside import plain
from .tensor_files import read, save

if TYPE_CHECKING:
    import torch

FORMAT = "zvl-profile-1"
LOWEST, HIGHEST = -30.0, 3.0  # log-weights: from nothing to twenty times
MAIN, REFINER = "main", "refiner"  # the file's tensors, float32 [blocks, heads]

# What a profile was fitted for, by the options' names: with others it acts, but nobody has tried how well.
FITTED_FOR = ("engine", "positions", "hidden_layer", "block_place", "merge")
# What is told of a profile in its file, as texts. `width` is that of the image model's blocks, `weight` and `curve` are
# those that it is meant for, `gained` is JSON.
ABOUT = ("image_model", "width", *FITTED_FOR, "weight", "curve", "pictures", "steps", "seed", "gained", *MAKING)

_LIMIT = 2**20  # bytes of a file: a thousand numbers have 4,000
_MOST = 512  # blocks, and heads of a block

Table = tuple[tuple[float, ...], ...]  # [blocks][heads]


@dataclass(frozen=True)
class Profile(FromFile):
    """Log-weights by block and head.

    Attributes:
        main: Of the image model's main blocks, [blocks][heads].
        refiner: Of the blocks that refine its caption, [blocks][heads]; the same number of heads.
        name: The file's, without its ending.
        digest: SHA-256 of the log-weights, hexadecimal: what acts has the same, whatever is told of it.
        about: What is told of it: names out of ABOUT, each with a text.
    """

    main: Table
    refiner: Table
    name: str = ""
    digest: str = ""
    about: About = ()

    @property
    def heads(self) -> int:
        return len(self.main[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a file has them, float32 [blocks, heads]."""
        import torch

        tables = {MAIN: self.main, REFINER: self.refiner}
        return {name: torch.tensor(table).reshape(len(table), self.heads) for name, table in tables.items()}

    @property
    def idle(self) -> bool:
        """Whether it changes nothing: every log-weight is 0."""
        return not any(value for row in (*self.main, *self.refiner) for value in row)

    def check(self, blocks: int, heads: int, refiners: int, width: int | None = None) -> None:
        """Raise ZvlError where an image model is not the one it is about.

        Args:
            blocks, heads: The image model's main blocks, and the heads of each.
            refiners: Its blocks that refine the caption.
            width: Of its rows; None: nobody knows.
        """
        own, other = (len(self.main), self.heads, len(self.refiner)), (blocks, heads, refiners)
        if own != other:
            raise ZvlError(
                f"The profile {shown(self.name)} is for an image model with {_shape(*own)}, and this one has "
                f"{_shape(*other)}. Choose a profile that was fitted for it, or none."
            )
        wide = self.told("width")
        if width is not None and wide and wide != str(width):
            raise ZvlError(
                f"The profile {shown(self.name)} is for an image model whose rows are {plain(wide, 10)} wide, and this "
                f"one's are {width}. Choose a profile that was fitted for it, or none."
            )

    def differences(self, chosen: Mapping[str, Any]) -> list[str]:
        """A line where a picture reads its references in another way than those that it was fitted with.

        Args:
            chosen: The values of FITTED_FOR, as far as they act.
        """
        named = {name: text for name in chosen if (text := self.told(name)) and text != str(chosen[name])}
        if not named:
            return []
        other = ", ".join(f"{name.replace('_', ' ')} {plain(text, 20)}" for name, text in named.items())
        here = ", ".join(str(chosen[name]) for name in named)
        return [f"The profile {shown(self.name)} was fitted with {other} (here: {here}), so it may act differently."]


def _shape(blocks: int, heads: int, refiners: int) -> str:
    counted = [f"{n} {what}" if n == 1 else f"{n} {what}s" for n, what in ((blocks, "block"), (heads, "head"))]
    return f"{' of '.join(counted)} ({refiners} for the caption)"


def profile_of(main: Any, refiner: Any, name: str = "", about: Mapping[str, Any] | None = None) -> Profile:
    """A profile out of log-weights.

    Args:
        main, refiner: [blocks, heads], tensors or nested lists; rounded to float32, as a file holds them.
        about: Values by names out of ABOUT, as `write_profile`.

    Raises:
        ValueError: they are of another form, not finite or out of range; why, in a few words.
    """
    tables = _table(main, MAIN), _table(refiner, REFINER)
    heads = {len(row) for table in tables for row in table}
    if not tables[0] or len(heads) != 1 or not 0 < max(heads) <= _MOST or max(map(len, tables)) > _MOST:
        raise ValueError(f"{MAIN} and {REFINER} are not [blocks, heads] with one number of heads")
    return Profile(*tables, name, _digest(tables), about_of(about or {}, ABOUT))


def _table(values: Any, name: str) -> Table:
    shape = getattr(values, "shape", (0, 0))
    try:
        if len(shape) != 2 or max(shape) > _MOST:  # of a tensor: it is not listed first
            raise TypeError
        listed = values.tolist() if hasattr(values, "tolist") else values
        rows = tuple(tuple(struct.unpack("<f", struct.pack("<f", value))[0] for value in row) for row in listed)
    except (TypeError, struct.error, OverflowError):
        raise ValueError(f"{name} is no table [blocks, heads] of numbers") from None
    for value in (value for row in rows for value in row):
        if not LOWEST <= value <= HIGHEST:  # NaN neither
            raise ValueError(f"{name} has a log-weight {value:g}; {LOWEST:g} to {HIGHEST:g} are possible")
    return rows


def _digest(tables: tuple[Table, Table]) -> str:
    made = hashlib.sha256()
    for table in tables:
        values = [value + 0.0 for row in table for value in row]  # -0 is 0
        made.update(struct.pack(f"<II{len(values)}f", len(table), len(values), *values))
    return made.hexdigest()


def read_profile(path: str) -> Profile:
    """Read a profile.

    Raises:
        ZvlError: it can't be read, is none or one of another version, or its tensors are not log-weights.
    """
    where = plain(path, 120)
    tensors, metadata = read(path, _LIMIT)
    check_format(metadata, FORMAT, where, "zvl fit weights")
    try:
        if strange := sorted(set(tensors) - {MAIN, REFINER}):
            raise ValueError(f"it has a tensor {shown(strange[0])}")
        main, refiner = (_checked(tensors, name) for name in (MAIN, REFINER))
        return profile_of(main, refiner, os.path.basename(path).removesuffix(ENDING), metadata)
    except ValueError as error:
        raise ZvlError(f"{where} is no profile that can be used: {error}. Fit it again, or choose another.") from None


def _checked(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise ValueError(f"it has no tensor {name}")
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind != "float32" or tensor.ndim != 2 or max(tensor.shape) > _MOST:
        raise ValueError(f"{name} is {kind} {list(tensor.shape)}; float32 [blocks, heads] is needed")
    return tensor


def write_profile(path: str, main: Any, refiner: Any, about: Mapping[str, Any], new: bool = False) -> Profile:
    """Write a profile, whole or not at all; gives it as `read_profile` does.

    Args:
        main, refiner: Log-weights [blocks, heads], tensors or nested lists, from LOWEST to HIGHEST.
        about: Values by names out of ABOUT; what is no text is written as JSON.
        new: Never take the place of a file that is there.

    Raises:
        ZvlError: it can't be written, or as `read_profile`.
    """
    try:
        made = profile_of(main, refiner, os.path.basename(path).removesuffix(ENDING), about)
    except ValueError as error:
        raise ZvlError(f"{plain(path, 120)} is not written: {error}.") from None
    save(made.tensors(), path, {"format": FORMAT, **dict(made.about)}, new)
    return made
