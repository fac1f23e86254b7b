"""An analysis as tables, in words for the terminal and in HTML for a page."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from statistics import fmean

from ..attention_shares import PROMPT, AttentionShares
from .layers import EncoderStatistics
from .measuring import KINDS, Against, Analysis, Kind

_BINS = 16  # of positions
NONE = "–"


@dataclass(frozen=True)
class Table:
    """Numbers to be read.

    Attributes:
        head: Of the columns.
        rows: The cells, each row as long as the head.
        heat: Of each cell how strongly it is coloured, 0 to 1, or None; () for a table without colours.
        note: A sentence below the title.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    heat: tuple[tuple[float | None, ...], ...] = ()

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows)]

        def line(cells: tuple[str, ...]) -> str:
            first, *others = (
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths))
            )
            return "  ".join([first, *others]).rstrip()

        return "\n".join([self.title, *([self.note] if self.note else []), *map(line, (self.head, *self.rows))])

    def html(self) -> str:
        """For a page; a heat map where there are colours."""
        heat = self.heat or ((None,) * len(self.head),) * len(self.rows)
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.head)
        rows = "".join(
            f"<tr>{''.join(_cell(cell, warmth) for cell, warmth in zip(row, warm))}</tr>"
            for row, warm in zip(self.rows, heat)
        )
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<h4>{html.escape(self.title)}</h4>{note}<div class='zvl-table'>{body}</div>"


def _cell(text: str, warmth: float | None) -> str:
    style = "" if warmth is None else f" style='background: rgba(230, 120, 20, {0.75 * warmth:.2f})'"
    return f"<td{style}>{html.escape(text)}</td>"


def tables(found: Analysis) -> list[Table]:
    """All tables of an analysis."""
    made = [_compared(found), _worst(found), _sizes(found), _shares(found), by_layer(found)]
    return made + ([] if found.shares is None else attention_tables(found.shares))


def number(value: float | None) -> str:
    """Three figures; a dash for none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3g}" if value < 1000 else f"{value:.4g}"


def spread(value: float) -> str:
    """A standard deviation as the findings write them: 61.1, 7.0, 0.57."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _compared(found: Analysis) -> Table:
    """The findings' own table: each kind of rows against the text encoder's."""
    head = ("rows", "position 0", "tokens", "global std", "correlation", "median ratio", "worst ratio", "over 10x")
    taken = found.reference
    rows: list[tuple[str, ...]] = [
        (f"text encoder, {found.prompts} prompts, layer {found.reads}", which, str(part.tokens),
         spread(part.global_std), "1.000 (reference)", "1", "1", "0")
        for which, part in (("with", taken.whole), ("without", taken.ordinary))
    ]  # fmt: skip
    for kind in (found.prompt, *found.kinds):
        rows += [(kind.name, which, *_numbers(part)) for which, part in _both(kind)]
    note = "Standard deviations of each dimension against the text encoder's, as in the published findings."
    return Table("Qwen3-VL against the text encoder", head, tuple(rows), note)


def _both(kind: Kind) -> list[tuple[str, Against]]:
    """With position 0 and without; rows that have none themselves are held against both."""
    return [("with", kind.whole), ("without", kind.ordinary)]


def _numbers(found: Against) -> tuple[str, ...]:
    n = found.numbers
    if n is None:
        return (str(found.tokens), spread(found.std), *[NONE] * 4)
    correlation, worst = f"{n['correlation']:.3f}", found.worst[0]
    return (
        str(found.tokens), spread(found.std), correlation, number(n["median_ratio"]),
        f"{number(worst.times)}x, {worst.direction}", str(n["outliers"]),
    )  # fmt: skip


def _worst(found: Analysis) -> Table:
    head = ("rows", "position 0", "dimension", "text encoder's std", "its own std", "ratio", "direction")
    rows = []
    for kind in (found.prompt, *found.kinds):
        for which, part in _both(kind):
            rows += [
                (kind.name, which, str(each.dimension), spread(each.text), spread(each.vl),
                 f"{number(each.times)}x", each.direction)
                for each in part.worst[:3]
            ]  # fmt: skip
    note = "The dimensions that are out most. Too small: the rows lack what the text encoder's have."
    return Table("Worst dimensions", head, tuple(rows), note)


def _sizes(found: Analysis) -> Table:
    """Row norms by position, some positions together where there are many."""
    kinds = (found.prompt, *(kind for kind in found.kinds if kind.name != "all rows"))
    last = max((kind.positions[-1] for kind in kinds if kind.positions), default=0)
    edges = [0, 1, 2, 4, 8]
    step = max(8, -(-(last - 15) // _BINS))
    edges += [*range(16, last + 1, step)]
    spans = [(a, b) for a, b in zip(edges, [*edges[1:], max(last + 1, edges[-1] + 1)])]
    rows = []
    for first, end in spans:
        cells = []
        for kind in kinds:
            inside = [norm for place, norm in zip(kind.positions, kind.norms) if first <= place < end]
            cells.append(number(fmean(inside)) if inside else NONE)
        name = str(first) if end == first + 1 else f"{first} to {min(end - 1, last)}"
        if first <= last:
            rows.append((name, *cells))
    note = "Mean norm of the rows. Position 0 of a text is the attention sink."
    return Table("Row norms by position", ("position", *(kind.name for kind in kinds)), tuple(rows), note)


def _shares(found: Analysis) -> Table:
    kinds = [kind for kind in found.kinds if kind.shares]
    head = ("normalization", *(cell for kind in kinds for cell in (f"{kind.name}: Qwen3-VL", "text encoder")))
    rows = []
    for name in dict.fromkeys(name for kind in kinds for name in kind.shares):
        cells = [f"{x:.2f}" for kind in kinds for x in (kind.shares[name], 1 - kind.shares[name])]
        rows.append((f"{name} (chosen)" if name == found.normalization else name, *cells))
    note = (
        f"Of a blended row at alpha {found.alpha:g}, by the sizes of both sides' rows: where they are alike, the share "
        "is alpha."
    )
    return Table("Effective share of each side", head, tuple(rows), note)


def by_layer(found: Analysis) -> Table:
    names = list(KINDS)[:2]
    measures = ("std", "correlation", "median ratio", "worst ratio")
    head = (
        "layer", "text encoder: std", "without position 0", "sink ratio",
        *(f"{name}: {measure}" for name in names for measure in measures),
    )  # fmt: skip
    cells: list[list[float | None]] = []
    for each in found.layers:
        own = each.encoder
        line: list[float | None] = (
            [None] * 3 if own is None else [own.whole.global_std, own.ordinary.global_std, own.sink]
        )
        for name in names:
            part = each.kinds[name]
            n = part.numbers
            line += [part.std, *([None] * 3 if n is None else [n["correlation"], n["median_ratio"], n["worst_ratio"]])]
        cells.append(line)
    warm = [_warmth(list(column)) for column in zip(*cells)]
    note = (
        f"Qwen3-VL's rows of each layer, without position 0, against what the image model takes (layer {found.reads})."
    )
    return Table(
        "By layer",
        head,
        tuple((str(each.layer), *map(number, line)) for each, line in zip(found.layers, cells)),
        note,
        tuple((None, *(column[i] for column in warm)) for i in range(len(cells))),
    )


def encoder_table(found: EncoderStatistics) -> Table:
    """A text encoder alone, by layer."""
    count = len(found.layers)
    head = ("layer", "global std", "without position 0", "norm of position 0", "of others", "sink ratio")
    rows = tuple(
        (str(i - count), spread(layer.whole.global_std), spread(layer.ordinary.global_std),
         *map(number, (layer.first, layer.others, layer.sink)))
        for i, layer in enumerate(found.layers)
    )  # fmt: skip
    tokens = found.layers[0].whole.tokens if found.layers else 0
    note = f"On {found.prompts} prompts of {tokens} tokens. Layer -1 is behind the final norm."
    return Table("The text encoder by layer", head, rows, note)


def _warmth(values: list[float | None]) -> list[float | None]:
    """Where each lies between the smallest and the largest."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return [None if v is None or not math.isfinite(v) else (v - low) / (high - low or 1.0) for v in values]


def attention_tables(shares: AttentionShares) -> list[Table]:
    """One for each reference: by block and step."""
    made, steps = [], sorted(shares.steps)
    prompt = _mean(shares.of(PROMPT))
    for reference in range(1, shares.references + 1):
        grid = shares.of(reference)
        every = _warmth([value for line in grid for value in line])
        heat = tuple((None, *every[i * len(steps) : (i + 1) * len(steps)]) for i in range(len(grid)))
        rows = tuple((str(block), *map(percent, line)) for block, line in enumerate(grid, 1))
        means = [_mean([[line[i]] for line in grid]) for i in range(len(steps))]
        title = f"Attention that reference {reference} gets, by block and step"
        note = (
            f"Of the picture's attention, the mean over heads and the picture's rows: {percent(_mean(grid))} over all "
            f"blocks and steps; the prompt's own rows get {percent(prompt)}, and the picture itself the rest."
        )
        head = ("block", *(f"step {step + 1}" for step in steps))
        made.append(Table(title, head, (*rows, ("mean", *map(percent, means))), note, (*heat, (None,) * len(head))))
    return made


def percent(value: float) -> str:
    return NONE if not math.isfinite(value) else f"{100 * value:.1f} %"


def _mean(grid: list[list[float]]) -> float:
    known = [value for line in grid for value in line if math.isfinite(value)]
    return fmean(known) if known else float("nan")
