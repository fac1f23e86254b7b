"""A contact sheet: rows of pictures with what was measured on them, drawn with Pillow's own font."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT, TRACK = "#fbfaf8", "#1d1d22", "#6c6a72", "#e4e1dc"
ADHERENCE, SIMILARITY = "#2f6fd0", "#d9772b"  # blue and orange: told apart by colour-blind readers, too

MARGIN, GAP, LABEL = 40, 12, 170
LINE = 1.35  # of the font's size


@dataclass(frozen=True)
class Cell:
    """One picture and what is said below it.

    Attributes:
        measures: Probabilities of the prompt's and of the reference's attributes; None where there are none.
    """

    picture: Image.Image
    caption: str
    measures: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Row:
    title: str
    note: str
    cells: list[Cell]


def contact_sheet(
    title: str,
    subtitle: str,
    lines: Iterable[tuple[str, str]],
    top: list[Cell],
    rows: list[Row],
    footer: str,
    side: int,
) -> Image.Image:
    """Draw the sheet.

    Args:
        lines: Name and text each; they stand beside the top's pictures.
        top: Pictures that belong to all rows: the reference and the plain picture.
        side: The longer side of a picture on the sheet, in pixels.
    """
    measured = tuple(any(cell.measures[i] is not None for row in rows for cell in row.cells) for i in range(2))
    columns = max(len(row.cells) for row in rows)
    width = 2 * MARGIN + LABEL + columns * (side + GAP) - GAP
    pen = _Pen(width, measured, side)

    pen.text((MARGIN, MARGIN - 8), title, 34)
    pen.text((MARGIN, MARGIN + 36), subtitle, 16, FAINT)
    y = MARGIN + 82
    for i, cell in enumerate(top):
        pen.cell(cell, MARGIN + i * (side + 2 * GAP), y)
    x = MARGIN + len(top) * (side + 2 * GAP) + 3 * GAP
    below = y + 24  # level with the pictures, whose captions stand above them
    if any(measured):
        below = pen.legend((x, below)) + 6
    for name, text in lines:
        pen.text((x, below), name, 16, FAINT)
        below = pen.paragraph((x + LABEL, below), text, 16, width - MARGIN - x - LABEL) + 6
    y = max(y + pen.cell_height, below) + 2 * GAP

    for row in rows:
        pen.line(y, width)
        y += 2 * GAP
        below = pen.paragraph((MARGIN, y + 24), row.title, 22, LABEL - GAP)
        pen.paragraph((MARGIN, below + 6), row.note, 14, LABEL - GAP, FAINT)
        for i, cell in enumerate(row.cells):
            pen.cell(cell, MARGIN + LABEL + i * (side + GAP), y)
        y += pen.cell_height + GAP
    pen.line(y, width)
    y = pen.paragraph((MARGIN, y + GAP), footer, 14, width - 2 * MARGIN, FAINT)
    return pen.sheet.crop((0, 0, width, y + MARGIN // 2))


def strip(cells: list[Cell], side: int) -> Image.Image:
    """Pictures side by side, each with its caption above.

    Args:
        side: The longer side of a picture, in pixels.
    """
    width = len(cells) * (side + GAP) + GAP
    pen = _Pen(width, (), side)
    for i, cell in enumerate(cells):
        pen.cell(cell, GAP + i * (side + GAP), GAP // 2)
    return pen.sheet.crop((0, 0, width, pen.cell_height + GAP // 2))


class _Pen:
    """Draws on paper that is long enough; the sheet is cut afterwards."""

    def __init__(self, width: int, measured: tuple[bool, ...], side: int):
        self.sheet = Image.new("RGB", (width, 8000), PAPER)
        self.draw = ImageDraw.Draw(self.sheet)
        self.measured, self.side = measured, side
        self.cell_height = 24 + side + 8 + 19 * sum(measured)

    def text(self, at: tuple[int, int], text: str, size: int, colour: str = INK) -> None:
        self.draw.text(at, text, fill=colour, font=ImageFont.load_default(size))

    def paragraph(self, at: tuple[int, int], text: str, size: int, width: int, colour: str = INK) -> int:
        """Text broken into lines; returns where the next one would begin."""
        x, y = at
        for line in _broken(text, ImageFont.load_default(size), width):
            self.text((x, y), line, size, colour)
            y += round(size * LINE)
        return y

    def line(self, y: int, width: int) -> None:
        self.draw.line((MARGIN, y, width - MARGIN, y), fill=TRACK, width=1)

    def cell(self, cell: Cell, x: int, y: int) -> None:
        self.text((x, y), cell.caption, 15)
        y += 24
        scale = self.side / max(cell.picture.size)
        size = tuple(max(1, round(length * scale)) for length in cell.picture.size)
        self.sheet.paste(cell.picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), (x, y))
        self.draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), outline=TRACK)
        y += self.side + 8
        for value, colour, shown in zip(cell.measures, (ADHERENCE, SIMILARITY), self.measured):
            if value is not None:
                self.bar((x, y), value, colour)
            y += 17 if shown else 0

    def bar(self, at: tuple[int, int], value: float, colour: str) -> None:
        x, y = at
        end = x + self.side - 42
        self.draw.rectangle((x, y, end, y + 7), fill=TRACK)
        if value > 0:
            self.draw.rectangle((x, y, x + round((end - x) * min(value, 1.0)), y + 7), fill=colour)
        text, font = f"{100 * value:.0f} %", ImageFont.load_default(13)
        self.draw.text((x + self.side - font.getlength(text), y - 4), text, fill=INK, font=font)

    def legend(self, at: tuple[int, int]) -> int:
        x, y = at
        texts = (
            "what the prompt names: how sure a small classifier is to see it in the picture",
            "what the reference shows: how sure it is to see the reference's shape, colour, background and style",
        )
        for text, colour, shown in zip(texts, (ADHERENCE, SIMILARITY), self.measured):
            if not shown:
                text, colour = (
                    "no prompt adherence: the prompt names no shape, colour, background or style that the classifier "
                    "knows",
                    TRACK,
                )
            self.draw.rectangle((x, y + 5, x + 30, y + 12), fill=colour)
            self.text((x + 42, y), text, 16)
            y += round(16 * LINE) + 2
        return y


def _broken(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken at spaces; a single longer word stays whole."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
