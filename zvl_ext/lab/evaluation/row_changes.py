"""What might divide a reference's look from its shape, done to its rows before they are mixed. Tried, and no controls.

Each is a function of the selected rows, the prompt's text embeddings without their first row [n, hidden], and the rows
that a neutral reference, grey all over, gives in their place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from ...mixing.select import Rows

_DIRECTIONS = 4  # of the prompt that are taken out of the reference's rows
_LEAST = 1e-6  # of a standard deviation that is divided by

Change = Callable[[Rows, torch.Tensor, Rows], Rows]


def _image_rows(rows: Rows, states: torch.Tensor) -> Rows:
    """With other states in the image rows' places."""
    whole = rows.states.clone()
    whole[rows.image] = states.to(whole)
    return dataclasses.replace(rows, states=whole)


def _in_place_of_all(rows: Rows, few: torch.Tensor) -> Rows:
    """With a few rows in the place of all image rows; together they stand for as many."""
    places = rows.image.nonzero().flatten()
    keep = torch.ones_like(rows.image)
    keep[places[len(few) :]] = False
    states, counts = rows.states.clone(), rows.counts.clone()
    states[places[: len(few)]] = few
    counts[places[: len(few)]] = counts[places].sum() / len(few)
    return dataclasses.replace(rows, states=states, stands_for=counts).keep(keep)


def mean(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """One row: what is the same all over the reference."""
    return _in_place_of_all(rows, rows.states[rows.image].mean(0, keepdim=True))


def mean_and_spread(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """Five rows with the mean and the two strongest directions of the image rows: their Gram matrix without places."""
    states = rows.states[rows.image]
    centre = states.mean(0)
    _, strength, directions = torch.linalg.svd(states - centre, full_matrices=False)
    out = strength[:2, None] / len(states) ** 0.5 * directions[:2]
    return _in_place_of_all(rows, torch.stack([centre, *(centre + out), *(centre - out)]))


def whitened(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """With the prompt's mean and spread in each dimension: how image rows differ from each other stays."""
    states = rows.states[rows.image]
    spread = states.std(0, correction=0).clamp_min(_LEAST)
    return _image_rows(rows, (states - states.mean(0)) / spread * text.std(0, correction=0) + text.mean(0))


def without_mean(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """With the prompt's mean in place of the reference's: without what is the same all over it."""
    states = rows.states[rows.image]
    return _image_rows(rows, states - states.mean(0) + text.mean(0))


def minus_neutral(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """The difference to a neutral reference, place by place, about the prompt's mean."""
    return _image_rows(rows, rows.states[rows.image] - neutral.states[neutral.image] + text.mean(0))


def minus_prompt(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
    """Without the strongest directions in which the prompt's rows differ: less of what the prompt already says."""
    _, _, directions = torch.linalg.svd(text - text.mean(0), full_matrices=False)
    states, said = rows.states[rows.image], directions[:_DIRECTIONS]
    centre = states.mean(0)
    return _image_rows(rows, states - (states - centre) @ said.T @ said)


def _along_prompt(rising: bool) -> Change:
    """The prompt's rows as the reference makes them, with a share that goes from 0 to 1, or back, along the prompt."""

    def change(rows: Rows, text: torch.Tensor, neutral: Rows) -> Rows:
        places = rows.text.nonzero().flatten()[-len(text) :]
        share = torch.linspace(0.0, 1.0, len(places))[:, None]
        states = rows.states.clone()
        states[places] = torch.lerp(text, states[places], share if rising else 1.0 - share)
        return dataclasses.replace(rows, states=states)

    return change


ROW_CHANGES: dict[str, Change] = {
    "mean of the image rows": mean,
    "mean and spread of the image rows": mean_and_spread,
    "whitened image rows": whitened,
    "image rows without their mean": without_mean,
    "image rows minus a neutral reference's": minus_neutral,
    "image rows minus what the prompt says": minus_prompt,
    "share of the prompt's rows rises along it": _along_prompt(rising=True),
    "share of the prompt's rows falls along it": _along_prompt(rising=False),
}
