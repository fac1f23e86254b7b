"""Bringing Qwen3-VL's rows and the text's rows together. Pure functions on [tokens, hidden]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .family import member

Blend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # text and vl rows of one shape [rows, hidden] -> the same


@dataclass(frozen=True)
class Sides:
    """What is to come together.

    Attributes:
        vl: float [m, hidden], Qwen3-VL's rows.
        own: bool [m], which of them are the prompt's own tokens.
        text: float [n, hidden], the text embeddings.
        head: How many text rows stand before the vision block.
        tail: How many stand after the prompt.
    """

    vl: torch.Tensor
    own: torch.Tensor
    text: torch.Tensor
    head: int
    tail: int

    def without_first(self, vl_holds_first: bool) -> Sides:
        """Without the text's row 0, nor that of vl where it holds position 0: what stays as it is takes no part."""
        vl, own = (self.vl[1:], self.own[1:]) if vl_holds_first else (self.vl, self.own)
        return Sides(vl, own, self.text[1:], max(self.head - 1, 0), self.tail)


def interpolate(vl: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """vl resampled linearly along the sequence to the text's number of rows (align_corners False)."""
    resampled = torch.nn.functional.interpolate(vl.T[None], size=text.shape[0], mode="linear", align_corners=False)
    return resampled[0].T, text


def truncate(vl: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first min(m, n) rows of both."""
    rows = min(vl.shape[0], text.shape[0])
    return vl[:rows], text[:rows]


def one_to_one(sides: Sides, blend: Blend) -> torch.Tensor:
    """The prompt's rows blended with their own; the others have no part in this."""
    if not sides.own.any():
        return sides.text
    return blend(sides.text, match_text(sides.vl[sides.own], sides.text, sides.head, sides.tail))


_PAIRINGS = {"interpolate": interpolate, "truncate": truncate}


def _paired(mode: str) -> Callable[[Sides, Blend], torch.Tensor]:
    def matched(sides: Sides, blend: Blend) -> torch.Tensor:
        if mode == "interpolate" and not (len(sides.vl) and len(sides.text)):  # nothing to resample, or into nothing
            return sides.text
        vl, text = match_length(sides.vl, sides.text, mode)
        return blend(text, vl) if len(text) else text

    return matched


@dataclass(frozen=True)
class LengthMatch:
    """One way in which rows and text come together.

    Attributes:
        text: The prompt's rows as the conditioning has them, [rows, hidden].
        inserts: Whether the rows that are not the prompt's own stand beside these, as a block.
    """

    text: Callable[[Sides, Blend], torch.Tensor]
    inserts: bool = False


LENGTH_MATCHES: dict[str, LengthMatch] = {
    **{mode: LengthMatch(_paired(mode)) for mode in _PAIRINGS},
    "insert": LengthMatch(one_to_one, inserts=True),
}

# Where a block of rows stands: before how many of the prompt's rows, given how many the template's head has.
BLOCK_PLACES: dict[str, Callable[[int], int]] = {
    # There it changes no distance between the prompt's rows and the picture: a weight towards 0 tends to the plain
    # picture.
    "front": lambda head: 0,
    # As Qwen3-VL reads it, and as published.
    "behind head": lambda head: head,
}


def match_length(vl: torch.Tensor, text: torch.Tensor, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both the same number of rows.

    Args:
        vl: float [m, hidden].
        text: float [n, hidden].
        mode: `interpolate` or `truncate`.

    Returns:
        vl and text, each [rows, hidden]. With m = n nothing is changed.
    """
    pairing = member(_PAIRINGS, mode, "length match")
    return (vl, text) if vl.shape[0] == text.shape[0] else pairing(vl, text)


def match_text(vl: torch.Tensor, text: torch.Tensor, head: int, tail: int) -> torch.Tensor:
    """Give Qwen3-VL's text rows as many rows as the text embeddings have, when it read another text.

    The template's first `head` and last `tail` rows are attention sinks of the image model: they stay one to one, and
    only the rows of the text between them are resampled. Where one of the texts is empty, the text embeddings' rows
    stay. Texts too short for the template's rows have none of it: they are resampled as a whole.
    """
    if vl.shape[0] == text.shape[0]:
        return vl
    if head + tail > min(vl.shape[0], text.shape[0]):
        return match_length(vl, text, "interpolate")[0] if text.shape[0] else text
    between, wanted = vl[head : vl.shape[0] - tail], text[head : text.shape[0] - tail]
    if between.shape[0] and wanted.shape[0]:
        wanted, _ = match_length(between, wanted, "interpolate")
    return torch.cat([vl[:head], wanted, vl[vl.shape[0] - tail :]])
