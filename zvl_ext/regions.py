"""Where in the picture a reference acts: a rectangle in words or numbers, a mask, or both. Plain arithmetic and masks.

A region is a float tensor [height, width] in 0..1 over the whole picture, whatever the picture's size: each pass brings
it to its own grid (`attention.patches_of`).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ZvlError, shown

if TYPE_CHECKING:
    import torch

# Parts of the picture: left, top, right and bottom edge as shares of its width and height.
NAMED_REGIONS: dict[str, tuple[float, float, float, float]] = {
    "all": (0.0, 0.0, 1.0, 1.0),
    "left": (0.0, 0.0, 0.5, 1.0),
    "right": (0.5, 0.0, 1.0, 1.0),
    "top": (0.0, 0.0, 1.0, 0.5),
    "bottom": (0.0, 0.5, 1.0, 1.0),
    "centre": (0.25, 0.25, 0.75, 0.75),
}
INPAINT = "inpaint mask"  # the region that is where the picture is being repainted
_NUMBER = re.compile(r"(?P<number>\d{1,3}(?:\.\d+)?|\.\d+)\s*(?P<percent>%?)", re.ASCII)
_WANTED = (
    "one of "
    + ", ".join((*NAMED_REGIONS, INPAINT))
    + ", or left, top, right, bottom as shares of the picture: 0, 0, 0.5, 1"
)
_SIDE = 256  # of a rectangle's mask: finer than any grid of patches of a picture that is made today


def rectangle(text: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge that a text names, as shares of the picture.

    >>> rectangle("left")
    (0.0, 0.0, 0.5, 1.0)
    >>> rectangle("25%, 0, 0.75, 1")
    (0.25, 0.0, 0.75, 1.0)

    Raises:
        ZvlError: the text is not of that form, or names nothing of the picture.
    """
    if text.strip().lower() in ("", INPAINT):
        return NAMED_REGIONS["all"]
    if (named := NAMED_REGIONS.get(text.strip().lower())) is not None:
        return named
    edges = [_share(part) for part in text.split(",")]
    if len(edges) != 4 or any(edge is None for edge in edges):
        raise ZvlError(f"Z-Image VL: region must be {_WANTED}; not {shown(text)}.")
    left, top, right, bottom = (edge or 0.0 for edge in edges)
    if not (0.0 <= left < right <= 1.0 and 0.0 <= top < bottom <= 1.0):
        raise ZvlError(
            f"The region {shown(text)} is empty or lies outside the picture: left must be smaller than "
            "right, top smaller than bottom, all of them from 0 to 1."
        )
    return left, top, right, bottom


def _share(text: str) -> float | None:
    match = _NUMBER.fullmatch(text.strip())
    return None if match is None else float(match["number"]) / (100.0 if match["percent"] else 1.0)


@dataclass(frozen=True)
class Frame:
    """What of a picture is sampled, where a picture is painted into another: all of it, or what surrounds a mask.

    Attributes:
        edges: Left, top, right and bottom edge of what is sampled, as shares of the picture.
        mask: Where it is repainted, float [height, width] in 0..1, stretched over what is sampled; None: nobody says.
    """

    edges: tuple[float, float, float, float] = NAMED_REGIONS["all"]
    mask: torch.Tensor | None = None

    @classmethod
    def to_come(cls) -> Frame:
        """Before it is known where a picture will be repainted: everywhere."""
        import torch

        return cls(mask=torch.ones(1, 1))

    @property
    def digest(self) -> str:
        """The same for the same frame."""
        mask = b"" if self.mask is None else repr(tuple(self.mask.shape)).encode() + self.mask.numpy().tobytes()
        return hashlib.sha256(repr(self.edges).encode() + mask).hexdigest()


def region_of(text: str, mask: torch.Tensor | None, frame: Frame | None = None) -> torch.Tensor | None:
    """The region of a rectangle and a mask together, float [height, width] in 0..1 over what is sampled; None where it
    is everything.

    Args:
        text: As `rectangle` reads it, or INPAINT.
        mask: float [height, width] in 0..1, stretched over the whole picture; None: everywhere.

    Raises:
        ZvlError: nothing of what is sampled is in the region, or there is no inpaint mask and it is asked for.
    """
    frame = frame or Frame()
    whole, inpainted = NAMED_REGIONS["all"], text.strip().lower() == INPAINT
    edges = rectangle(text)
    if inpainted and frame.mask is None:
        raise ZvlError(
            "The region is the inpaint mask, and this picture has none. Paint one under Inpaint in img2img, or choose "
            "another region."
        )
    if edges == whole and frame.edges == whole and not inpainted:
        region = mask
    elif edges == whole and mask is None:
        region = frame.mask if inpainted else None
    else:
        region = _drawn(edges, mask, frame, inpainted)
    if region is not None and not bool((region > 0).any()):
        raise ZvlError(_EMPTY[frame.edges != whole or inpainted])
    if region is not None and bool((region >= 1).all()):
        return None
    return region


_EMPTY = {
    False: "The region has nothing of the picture in it. Paint some of the mask white.",
    True: "The region has nothing of what is inpainted in it. Paint another mask, or choose another region.",
}


def _drawn(edges: tuple[float, ...], mask: torch.Tensor | None, frame: Frame, inpainted: bool) -> torch.Tensor:
    """A region that takes more than a mask, dot by dot: of the mask's own grid where all of the picture is sampled."""
    import torch

    whole = frame.edges == NAMED_REGIONS["all"] and not inpainted
    height, width = mask.shape if whole and mask is not None else (_SIDE, _SIDE)
    across = (torch.arange(width) + 0.5) / width
    down = (torch.arange(height) + 0.5) / height
    x = frame.edges[0] + across * (frame.edges[2] - frame.edges[0])
    y = frame.edges[1] + down * (frame.edges[3] - frame.edges[1])
    left, top, right, bottom = edges
    region = (((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))).float()
    for each, dots in ((mask, (y, x)), (frame.mask if inpainted else None, (down, across))):
        if each is not None:
            rows, columns = ((place * side).long().clamp(max=side - 1) for place, side in zip(dots, each.shape))
            region = region * each[rows][:, columns]
    return region
