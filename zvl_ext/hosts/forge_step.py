"""What the web UI's sampler conditions on at a step: both halves of guidance, with the marks of their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from modules import prompt_parser

from ..conditioning import Conditioning

CARRIED = "zvl_conditioning"  # on a tensor of the host's conditioning
Column = Callable[[torch.Tensor, "Conditioning | None"], torch.Tensor]  # of an entry's rows, something as long


@dataclass(frozen=True)
class Half:
    """One half of guidance at a step.

    Attributes:
        marks: float [places, rows, 2].
        lost: What the rows lose against those with the references at their full part, [places, rows, hidden], or None.
        order: For each picture its sub-prompts as (place, weight); None in the unconditional half, which has none.
        owners: Whose each row is, also where nothing is weighed, float [places, rows, 1]; None where nobody asks.
    """

    marks: torch.Tensor
    lost: torch.Tensor | None
    order: list | None = None
    owners: torch.Tensor | None = None


def conditional(conditioning: Any, step: int, done: float, owners: bool = False) -> Half | None:
    """The half that has the prompts, put together by the host's own function; None where no part of it is ours.

    Args:
        done: The share of the steps that are done.
        owners: Whether it is asked whose each row is.
    """
    entries = [e for parts in conditioning.batch for each in parts for e in each.schedules]
    order: list = []

    def rebuilt(column: Column) -> torch.Tensor:
        batch = [
            [SimpleNamespace(schedules=_schedules(each.schedules, column), weight=each.weight) for each in parts]
            for parts in conditioning.batch
        ]
        order[:], rows = prompt_parser.reconstruct_multicond_batch(SimpleNamespace(batch=batch), step)
        return rows

    return _half(entries, rebuilt, done, order, owners)


def unconditional(schedules: Any, step: int, done: float) -> Half | None:
    """The half that has the negative prompts, as `conditional`."""
    if not schedules:
        return None

    def rebuilt(column: Column) -> torch.Tensor:
        return prompt_parser.reconstruct_cond_batch([_schedules(each, column) for each in schedules], step)

    return _half([e for each in schedules for e in each], rebuilt, done, None)


def _half(
    entries: list, rebuilt: Callable[[Column], torch.Tensor], done: float, order: list | None, owners: bool = False
) -> Half | None:
    carried = [_carried(entry.cond) for entry in entries if isinstance(entry.cond, torch.Tensor)]
    if not any(carried):
        return None
    now = {id(own): own.at(done) for own in carried if own is not None}

    def marks_of(rows: torch.Tensor, own: Conditioning | None) -> torch.Tensor:
        return rows.new_zeros(len(rows), 2) if own is None or own.marks is None else own.marks.to(rows)

    def lost_of(rows: torch.Tensor, own: Conditioning | None) -> torch.Tensor:
        return torch.zeros_like(rows) if own is None else (own.rows - now[id(own)]).to(rows)

    def owners_of(rows: torch.Tensor, own: Conditioning | None) -> torch.Tensor:
        return rows.new_zeros(len(rows), 1) if own is None else own.owners.to(rows)[:, None]

    changes = any(own is not None and now[id(own)] is not own.rows for own in carried)
    lost, whose = rebuilt(lost_of) if changes else None, rebuilt(owners_of) if owners else None
    return Half(rebuilt(marks_of), lost, order, whose)


def _schedules(entries: Any, column: Column) -> list:
    """The host's schedule of one prompt with a column in place of its rows."""
    return [SimpleNamespace(end_at_step=e.end_at_step, cond=column(e.cond, _carried(e.cond))) for e in entries]


def _carried(rows: Any) -> Conditioning | None:
    return getattr(rows, CARRIED, None)
