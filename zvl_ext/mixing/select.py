"""Choosing rows of a sequence's hidden states, and having fewer image rows. Pure functions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ..sequence import Sequence


@dataclass(frozen=True)
class Rows:
    """Selected hidden states with their roles.

    Attributes:
        states: float [m, hidden].
        text: bool [m], the host's own tokens.
        image: bool [m], image tokens, one grid of them, row by row. The two vision markers are neither.
        head: How many of the host's tokens stand before the vision block.
        tail: How many stand after the prompt.
        grid: Rows and columns of the image tokens; (0, 0) where nobody knows.
        stands_for: float [m], how many rows each stands for; None: each for itself.
    """

    states: torch.Tensor
    text: torch.Tensor
    image: torch.Tensor
    head: int
    tail: int = 0
    grid: tuple[int, int] = (0, 0)
    stands_for: torch.Tensor | None = None

    @property
    def holds_first(self) -> bool:
        """Whether row 0 is position 0 of the template, the attention sink."""
        return bool(self.text[0])

    @property
    def counts(self) -> torch.Tensor:
        """How many rows each stands for, float [m]."""
        return torch.ones(self.states.shape[0]) if self.stands_for is None else self.stands_for

    def keep(self, mask: torch.Tensor) -> Rows:
        """The rows of a mask [m]."""
        counts = None if self.stands_for is None else self.stands_for[mask]
        return dataclasses.replace(
            self, states=self.states[mask], text=self.text[mask], image=self.image[mask], stands_for=counts
        )


def select(states: torch.Tensor, sequence: Sequence, token_mode: str, picture: int = 0) -> Rows:
    """The rows that a token mode selects for one of the pictures out of a whole sequence's hidden states
    [tokens, hidden]."""
    positions, block = torch.tensor(sequence.rows(token_mode, picture)), sequence.blocks[picture]
    image = (positions >= block.start) & (positions < block.end)
    text = (positions < block.start - 1) | (positions > block.end)
    return Rows(states[positions], text, image, sequence.head, sequence.tail, block.grid)


def merge_image_rows(rows: Rows, size: int, counted: bool = False) -> Rows:
    """Put the mean in place of every `size` × `size` neighbours among the image rows.

    Args:
        rows: With the grid of their image rows, none of them dropped.
        counted: Whether a mean stands for as many rows as went into it.
    """
    lines, columns = rows.grid
    if size <= 1 or not rows.image.any():
        return rows
    if int(rows.image.sum()) != lines * columns:
        raise ValueError(f"{int(rows.image.sum())} image rows are not a grid of {lines} × {columns}")
    down, across = torch.arange(lines) // size, torch.arange(columns) // size
    grid = (int(down[-1]) + 1, int(across[-1]) + 1)
    cell = (down[:, None] * grid[1] + across).flatten()  # which mean each image row goes into
    count = torch.bincount(cell).to(rows.states)
    total = rows.states.new_zeros(len(count), rows.states.shape[1]).index_add_(0, cell, rows.states[rows.image])
    first = int(rows.image.nonzero()[0])
    last = first + lines * columns

    def replaced(column: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        return torch.cat([column[:first], means.to(column), column[last:]])

    none = torch.zeros(len(count), dtype=torch.bool)
    return Rows(
        replaced(rows.states, total / count[:, None]),
        replaced(rows.text, none),
        replaced(rows.image, ~none),
        rows.head,
        rows.tail,
        grid,
        replaced(rows.counts, count.cpu()) if counted else rows.stands_for,
    )


def drop_image_rows(rows: Rows, count: int, seed: int, counted: bool = False) -> Rows:
    """Leave out `count` image rows at random; markers and the prompt's rows always stay.

    Args:
        seed: Which ones; the same on every device.
        counted: Whether those that are left stand for those that are gone, too.
    """
    if count <= 0:
        return rows
    places = rows.image.nonzero().flatten()
    order = torch.randperm(places.numel(), generator=torch.Generator().manual_seed(seed % 2**63))
    keep = torch.ones(rows.image.shape[0], dtype=torch.bool)
    keep[places[order[:count]]] = False
    left = rows.keep(keep)
    if not counted:
        return left
    share = rows.counts[rows.image].sum() / left.counts[left.image].sum()
    return dataclasses.replace(left, stands_for=torch.where(left.image, left.counts * share, left.counts))


def keep_masked_image_rows(rows: Rows, mask: torch.Tensor) -> Rows:
    """Leave out the image rows that lie outside a mask; markers and the prompt's rows always stay.

    Args:
        rows: With the grid of their image rows, none of them dropped.
        mask: As for `inside`.
    """
    lines, columns = rows.grid
    if int(rows.image.sum()) != lines * columns:
        raise ValueError(f"{int(rows.image.sum())} image rows are not a grid of {lines} × {columns}")
    keep = torch.ones(rows.image.shape[0], dtype=torch.bool)
    keep[rows.image] = inside(mask, rows.grid).flatten()
    return rows.keep(keep)


def inside(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Which squares of a grid lie inside a mask, bool [rows, columns]: those of which at least half does; where that is
    none, the ones that have most.

    Args:
        mask: Over the reference, float [height, width] in 0..1.
    """
    share = torch.nn.functional.interpolate(mask[None, None], size=grid, mode="area")[0, 0]
    return share >= min(0.5, float(share.max()))
