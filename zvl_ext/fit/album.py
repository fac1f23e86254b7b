"""A folder of a user's pictures with what is said of each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ZvlError, untitled
from ..outside import no_file, plain, read_regular, reason
from .clauses import words

if TYPE_CHECKING:
    from ..reference import Reference

FEWEST = 8  # pictures: two decide when to stop, two say what was gained, and the rest are learned from
_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl")
_LONGEST = 2**16  # bytes of a caption's file

Describe = Callable[["Reference"], str]


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: Its file's.
        reference: The picture itself.
        caption: What is said of it, of some words.
        own: Whether that comes from a file beside it.
    """

    name: str
    reference: Reference
    caption: str
    own: bool


def open_album(folder: str, describe: Describe, say: Callable[[str], None]) -> list[Picture]:
    """The pictures of a folder in the order of their names, each with its caption: from `NAME.txt` beside it, else
    described.

    Args:
        describe: Describes a picture that has no caption.
        say: Told in a line which pictures are left out and why.

    Raises:
        ZvlError: there is no such folder, or there are fewer than FEWEST pictures that can be used in it.
    """
    from ..reference import open_file

    made: list[Picture] = []
    seen: dict[str, str] = {}
    for path in _files(folder):
        name = os.path.basename(path)
        try:
            reference = open_file(path)
            if reference.digest in seen:
                raise ZvlError(f"it is the same picture as {plain(seen[reference.digest])}.")
            seen[reference.digest] = name
            text = _beside(path)
            caption = " ".join((describe(reference) if text is None else text).split())
            if not words(caption):
                raise ZvlError("its caption has no words.")
        except ZvlError as error:
            said = untitled(str(error)).removeprefix("Reference image: ")
            say(f"{plain(name)} is left out: {said}")
            continue
        made.append(Picture(name, reference, caption, text is not None))
    if len(made) < FEWEST:
        raise ZvlError(
            f"--pictures {plain(folder, 120)} has {_count(len(made))} that can be used; {FEWEST} are needed at least, "
            "better a hundred."
        )
    return made


def _count(pictures: int) -> str:
    return f"{pictures or 'no'} picture{'' if pictures == 1 else 's'}"


def _files(folder: str) -> Iterable[str]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.name.lower().endswith(_NAMES))
    except (OSError, ValueError) as error:
        raise ZvlError(f"--pictures {plain(folder, 120)} can't be read as a folder ({reason(error)}).") from error
    return [os.path.join(folder, name) for name in names]


def _beside(path: str) -> str | None:
    """What the text file beside a picture says; None where there is none."""
    text = os.path.splitext(path)[0] + ".txt"
    if no_file(text) == "not there":
        return None
    try:
        return read_regular(text, _LONGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ZvlError(f"{plain(os.path.basename(text))} can't be read as UTF-8 text ({reason(error)}).") from error
