"""What is measured of each picture, where the user wants it: in its parameters, and under the cells of a plot."""

from __future__ import annotations

from typing import Any

from ..errors import ZvlError
from ..hosts import forge
from ..options import Settings
from .batch import OfEach, turn
from .infotext import MEASURED
from .request import cell_in, parse
from .said import tell

_VALUES = "zvl_measured"  # on p: what was measured of its pictures, in their order
_NONE = "-"
_SMALLEST = 10  # pixels of a letter
_WIDEST = "-0.0000"


def measure(p: Any, picture: Any, args: tuple | list) -> None:
    """Measure a picture that has just been made, before its parameters are written. Passes that other extensions make
    within a picture are no pictures.

    Never raises: the picture is made.
    """
    outer = forge.enclosing(p)
    try:
        chosen = parse(args, cell_in(p)) if outer is None and args else None
    except ZvlError:  # which has stopped the picture, or will
        return
    if chosen is None or not chosen.enabled or not chosen.measured:
        return
    try:
        values = _measured(picture, _reference(p, chosen))
    except Exception as error:  # noqa: BLE001 - whatever it is, the picture is not the worse for it
        tell(p, f"the picture could not be measured ({' '.join(str(error).split())[:120]}).")
        return
    every = _of(p)
    every.append(values)
    text = ", ".join(f"{name} {value}" for name, value in values.items() if value != _NONE)
    if text:
        p.extra_generation_params[MEASURED] = OfEach(text, getattr(every, "first", text))
        every.first = getattr(every, "first", text)


class _Values(list):
    """What was measured of a generation's pictures; `first` is the first one's text."""

    first: str
    of: Any


def _of(p: Any) -> _Values:
    """This generation's own: a copy of p, as plots make them, brings another's along."""
    found = p.__dict__.get(_VALUES)
    if found is None or found.of is not p:
        found = p.__dict__[_VALUES] = _Values()
        found.of = p
    return found


def _reference(p: Any, chosen: Settings) -> Any:
    """The picture that this one is measured against; None where there is none."""
    from ..reference import open_reference

    each = chosen.each()
    source = each[turn(p) if len(each) > 1 else 0].reference
    return None if source is None else open_reference(source).image


def _measured(picture: Any, reference: Any) -> dict[str, str]:
    """By the metrics' labels: a number, or a dash where it can't be said of this picture."""
    from .. import measures

    metrics = [metric for name, metric in measures.there().items() if name != measures.DIVERSITY]
    found = measures.measured(metrics, measures.Shown(picture.convert("RGB"), reference))
    return {metric.label: f"{found[metric.name]:.3g}" if metric.name in found else _NONE for metric in metrics}


def label(p: Any, processed: Any) -> None:
    """Write under a plot's cell what was measured; the files on the disk are as they were."""
    every = p.__dict__.get(_VALUES)
    if every is None or every.of is not p:
        return
    del p.__dict__[_VALUES]
    pictures = getattr(processed, "images", None)
    if not pictures or not forge.in_plot():
        return
    first = getattr(processed, "index_of_first_image", 0)
    for number, values in enumerate(every, first):
        if number < len(pictures):
            pictures[number] = labelled(pictures[number], values)


def labelled(picture: Any, values: dict[str, str]) -> Any:
    """A copy of a picture with values under it, as many to a line as fit. Pictures of one size get labels of one
    size."""
    from PIL import Image, ImageDraw

    size = max(_SMALLEST, picture.width // 36)
    font = _font(size)
    lines: list[list[str]] = [[]]
    used = 0.0
    for name, value in values.items():
        width = font.getlength(f"{name} {_WIDEST}") + size
        if lines[-1] and used + width > picture.width:
            lines.append([])
            used = 0.0
        lines[-1].append(f"{name} {value}")
        used += width
    height = round(size * 1.4)
    made = Image.new("RGB", (picture.width, picture.height + height * len(lines) + size // 2), "white")
    made.paste(picture, (0, 0))
    draw = ImageDraw.Draw(made)
    for number, texts in enumerate(lines):
        draw.text((size // 2, picture.height + height * number + size // 4), "   ".join(texts), "black", font)
    made.info = dict(picture.info)
    return made


def _font(size: int) -> Any:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except (TypeError, OSError):  # an older Pillow, or one without FreeType
        return ImageFont.load_default()
