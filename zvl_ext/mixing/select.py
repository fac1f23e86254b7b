"""Choosing rows of a sequence's hidden states, and dropping image rows at random. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..sequence import Sequence


@dataclass(frozen=True)
class Rows:
    """Selected hidden states with their roles.

    Attributes:
        states: float [m, hidden].
        text: bool [m], the host's own tokens.
        image: bool [m], image tokens. The two vision markers are neither.
        head: How many of the host's tokens stand before the vision block.
        tail: How many stand after the prompt.
    """

    states: torch.Tensor
    text: torch.Tensor
    image: torch.Tensor
    head: int
    tail: int = 0

    @property
    def holds_first(self) -> bool:
        """Whether row 0 is position 0 of the template, the attention sink."""
        return bool(self.text[0])

    def keep(self, mask: torch.Tensor) -> Rows:
        return Rows(self.states[mask], self.text[mask], self.image[mask], self.head, self.tail)


def select(states: torch.Tensor, sequence: Sequence, token_mode: str) -> Rows:
    """The rows that a token mode selects out of a whole sequence's hidden states [tokens, hidden]."""
    positions = torch.tensor(sequence.rows(token_mode))
    image = (positions >= sequence.image_start) & (positions < sequence.image_end)
    text = (positions < sequence.image_start - 1) | (positions > sequence.image_end)
    return Rows(states[positions], text, image, sequence.head, sequence.tail)


def drop_image_rows(rows: Rows, count: int, seed: int) -> Rows:
    """Leave out `count` image rows at random; markers and the prompt's rows always stay.

    Args:
        seed: Which ones; the same on every device.
    """
    if count <= 0:
        return rows
    places = rows.image.nonzero().flatten()
    order = torch.randperm(places.numel(), generator=torch.Generator().manual_seed(seed % 2**63))
    keep = torch.ones(rows.image.shape[0], dtype=torch.bool)
    keep[places[order[:count]]] = False
    return rows.keep(keep)
