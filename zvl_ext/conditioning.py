"""What the image model gets for one prompt: rows, whose they are, and how strongly each reference acts when and where.

A reference is a block of rows with a weight of its own, and rows that the prompt has after it was read behind that
reference. Blocks stand beside each other; the prompt's rows are mixed step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .attention import FILL, OWNER, filling, marks
from .weighting import Weighting


@dataclass(frozen=True)
class Part:
    """One reference's part in a conditioning.

    Attributes:
        weighting: When and how strongly the image model looks at it.
        own: float [n, hidden], the prompt's rows as this reference alone makes them; None where it changes none.
        block: float [m, hidden], the rows of its own that stand beside the prompt's; None where there are none.
        counts: float [m], how many rows each row of the block stands for.
        region: float [height, width] in 0..1, where in the picture it acts, over the whole picture whatever its size;
            None: everywhere.
        against: Whether the prompt's rows are led away from it instead of to it.

    A part with neither rows of its own nor a block has no part in this conditioning: it keeps its place, because marks
    name references by their number. (A negative reference acts in the unconditional half alone.)
    """

    weighting: Weighting
    own: torch.Tensor | None = None
    block: torch.Tensor | None = None
    counts: torch.Tensor | None = None
    region: torch.Tensor | None = None
    against: bool = False


@dataclass(frozen=True)
class Conditioning:
    """What the image model gets for one prompt.

    Attributes:
        rows: float [rows, hidden], with every reference at its full part.
        parts: The references, in the order of the marks' owners.
        plain: float [rows, hidden], as `rows` with the prompt's own rows as they are without a reference; of another
            length only under length match truncate. None where there is no difference, or where nobody knows them.
        marks: float [rows, 2], as in `attention`; None where the image model has nothing to weigh.
        place: Where the references' blocks begin, and how many rows they and what fills them up have.
        text_read: Whether the prompt's rows without a reference are known: a text encoder that is not needed has not
            read it.
    """

    rows: torch.Tensor
    parts: tuple[Part, ...] = ()
    plain: torch.Tensor | None = None
    marks: torch.Tensor | None = None
    place: tuple[int, int] = field(default=(0, 0))
    text_read: bool = True

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steady(self) -> bool:
        """Whether the rows alone are all of it: the same at every step, and nothing to weigh."""
        return self.marks is None and (self.plain is None or all(part.weighting.constant for part in self.parts))

    def at(self, way: float) -> torch.Tensor:
        """The rows at a share of the steps that are done."""
        shares = [part.weighting.part(way) for part in self.parts if part.own is not None]
        if self.plain is None or all(share == 1.0 for share in shares):
            return self.rows
        if not any(shares):
            return self.plain
        plain = self.plain[: len(self.rows)]
        if len(shares) == 1:  # between two rows there is nothing that their dtype can't hold
            return (shares[0] * self.rows.float() + (1.0 - shares[0]) * plain.float()).to(self.rows.dtype)
        prompt = mixed_rows(self._prompt(plain).float(), self.parts, way).to(plain.dtype)
        return beside(prompt, self._block(plain), self.place[0])

    def _prompt(self, rows: torch.Tensor) -> torch.Tensor:
        start, count = self.place
        return torch.cat([rows[:start], rows[start + count :]])

    def _block(self, rows: torch.Tensor) -> torch.Tensor:
        start, count = self.place
        return rows[start : start + count]

    @property
    def text(self) -> torch.Tensor:
        """The prompt's rows as they are without a reference, [n, hidden]: what the references were joined to."""
        return self._prompt(self.rows if self.plain is None else self.plain)

    @property
    def owners(self) -> torch.Tensor:
        """Whose each row is, int64 [rows], as marks say it; known also where nothing is weighed."""
        if self.marks is not None:
            return self.marks[:, OWNER].round().long()
        owners, start = torch.zeros(len(self.rows), dtype=torch.long), self.place[0]
        for number, part in enumerate(self.parts, 1):
            if part.block is not None:
                owners[start : start + len(part.block)] = number
                start += len(part.block)
        return owners

    def weights(self, way: float) -> list[float]:
        """Each reference's weight at a share of the steps that are done."""
        return [part.weighting.at(way) for part in self.parts]


def moved(made: Conditioning, device: torch.device) -> Conditioning:
    """The same with every tensor on a device."""

    def there(of: Any) -> dict[str, Any]:
        return {name: each.to(device) for name, each in vars(of).items() if isinstance(each, torch.Tensor)}

    return replace(made, **there(made), parts=tuple(replace(part, **there(part)) for part in made.parts))


def fitted(made: Conditioning, like: torch.Tensor) -> Conditioning:
    """The same in the dtype and on the device of a tensor."""
    there = moved(made, like.device)
    if there.rows.dtype == like.dtype:
        return there
    return joined(there.text.float(), there.parts, there.place[0], like.dtype)


def reweighted(made: Conditioning, weightings: list[Weighting]) -> Conditioning:
    """The same references with other weights. One that is idle then has no part any more, as if it was never there."""
    parts = tuple(
        replace(part, weighting=weighting) for part, weighting in zip(made.parts, weightings) if not weighting.idle
    )
    return joined(made.text.float(), parts, made.place[0], made.rows.dtype)


def mixed_rows(plain: torch.Tensor, parts: tuple[Part, ...], way: float | None = None) -> torch.Tensor:
    """The prompt's rows under several references: each leads them from the plain ones to (or away from) its own.

    Shares that sum to more than 1 are brought to a sum of 1, so that two full references lead to the mean of theirs,
    and one that goes out leaves the other's.

    Args:
        way: The share of the steps that are done; None: every reference has its full part.
    """
    leading = [part for part in parts if part.own is not None]
    shares = [1.0 if way is None else part.weighting.part(way) for part in leading]
    rows, total = plain.clone(), max(1.0, sum(shares))
    for part, share in zip(leading, shares):
        if part.own is not None and share:
            rows += (-share if part.against else share) / total * (part.own[: len(rows)].to(rows) - plain)
    return rows


def beside(prompt: torch.Tensor, block: torch.Tensor, place: int) -> torch.Tensor:
    """The prompt's rows with a block put in before the row of that number."""
    return torch.cat([prompt[:place], block, prompt[place:]])


def joined(plain: torch.Tensor, parts: tuple[Part, ...], place: int, dtype: torch.dtype) -> Conditioning:
    """One conditioning of several references' parts.

    Args:
        plain: The prompt's rows without a reference, float32 [n, hidden].
        place: Before which of the prompt's rows the blocks stand.
        dtype: Of the result.
    """
    own = [part.own for part in parts if part.own is not None]
    if not own:
        made = plain
    elif len(own) == 1 and not any(part.against for part in parts):
        made = own[0]
    else:
        made = mixed_rows(plain[: min(map(len, own))], parts)
    changed = made is not plain and not torch.equal(made, plain)
    place = min(place, len(made))  # a prompt of fewer rows: the blocks stand behind it
    numbered = [(number, part.block, part.counts) for number, part in enumerate(parts, 1) if part.block is not None]
    if not numbered:
        return Conditioning(made.to(dtype), parts, plain.to(dtype) if changed else None)
    owner = torch.cat([torch.full((len(rows),), float(number)) for number, rows, _ in numbered])
    ones = [torch.ones(len(rows)) if counts is None else counts.cpu().float() for _, rows, counts in numbered]
    counts = torch.cat(ones)
    weighed = bool((counts != 1).any()) or any(
        not part.weighting.plain or part.region is not None for part in parts if part.block is not None
    )
    block = torch.cat([rows for _, rows, _ in numbered])
    fill = filling(len(block)) if weighed else 0
    block = torch.cat([block, block[-1:].expand(fill, -1)])
    marked = None
    if weighed:
        ends = torch.zeros(place, 2), torch.zeros(len(made) - place, 2)
        filled = marks(torch.full((fill,), FILL), torch.zeros(fill))
        marked = torch.cat([ends[0], marks(owner, counts), filled, ends[1]]).to(plain.device)
    return Conditioning(
        beside(made, block, place).to(dtype),
        parts,
        beside(plain, block, place).to(dtype) if changed else None,
        marked,
        (place, len(block)),
    )
