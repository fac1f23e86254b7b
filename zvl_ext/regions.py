"""Where in the picture a reference acts: a rectangle in words or numbers, a mask, or both. Plain arithmetic and masks.

A region is a float tensor [height, width] in 0..1 over the whole picture, whatever the picture's size: each pass brings
it to its own grid (`attention.patches_of`).
"""

from __future__ import annotations

import re
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
_NUMBER = re.compile(r"(?P<number>\d{1,3}(?:\.\d+)?|\.\d+)\s*(?P<percent>%?)", re.ASCII)
_WANTED = "one of " + ", ".join(NAMED_REGIONS) + ", or left, top, right, bottom as shares of the picture: 0, 0, 0.5, 1"
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
    if not text.strip():
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


def region_of(text: str, mask: torch.Tensor | None) -> torch.Tensor | None:
    """The region of a rectangle and a mask together, float [height, width] in 0..1; None where it is everything.

    Args:
        text: As `rectangle` reads it.
        mask: float [height, width] in 0..1, stretched over the whole picture; None: everywhere.

    Raises:
        ZvlError: nothing of the picture is in the region.
    """
    import torch

    edges = rectangle(text)
    if edges == NAMED_REGIONS["all"]:
        region = mask
    else:
        height, width = (_SIDE, _SIDE) if mask is None else mask.shape
        left, top, right, bottom = edges
        x = (torch.arange(width) + 0.5) / width
        y = (torch.arange(height) + 0.5) / height
        inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
        region = inside.float() if mask is None else mask * inside
    if region is not None and not bool((region > 0).any()):
        raise ZvlError("The region has nothing of the picture in it. Paint some of the mask white.")
    if region is not None and bool((region >= 1).all()):
        return None
    return region
