"""Conditioning files of the web UI: what the last picture was conditioned on saved as one."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable

from ..errors import ZvlError, shown
from ..hosts import forge_files
from .kept import KEEPER, Made

_MOST = 2000  # files in the folder
_LONGEST = 100  # bytes of a name; systems take 255 with the ending and what a file is called while it is written
# What no file system or page may get in a name, and what Windows keeps for itself.
_UNSAFE = re.compile(r'[<>:"/\\|?*]+')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?$", re.IGNORECASE)
NOTHING = "There is nothing to save: no reference had a part in the last picture."


def free_name(wanted: str) -> str:
    """A file's name out of what somebody has typed.

    Raises:
        ZvlError: nothing is left of it, a file of this name is there already, or there are too many files.
    """
    clean = "".join(each if each.isprintable() else " " for each in unicodedata.normalize("NFC", wanted))
    clean = " ".join(_UNSAFE.sub("_", clean).split()).encode("utf-8", "ignore")[:_LONGEST].decode("utf-8", "ignore")
    if clean.lower().endswith(forge_files.ENDING):
        clean = clean[: -len(forge_files.ENDING)]
    clean = clean.strip(" .")
    if not clean.strip("_"):
        raise ZvlError("Type a name for the conditioning file first.")
    if _DEVICE.match(clean):
        clean = f"_{clean}"
    there = forge_files.conditioning_paths()
    if clean.casefold() in map(str.casefold, there):  # one name on some systems
        raise ZvlError(f"There is a conditioning file {shown(clean)} already. Choose another name, or remove it first.")
    if len(there) >= _MOST:
        folder = forge_files.conditioning_folder()
        raise ZvlError(f"There are {len(there)} conditioning files in {folder}. Remove some first.")
    return clean


def save_made(made: Made | None, wanted: str) -> str:
    """Save what a picture was conditioned on under a new name; gives the name.

    Raises:
        ZvlError: there is nothing to save, or as `free_name`, or it can't be written.
    """
    from ..conditioning_file import save

    if made is None:
        raise ZvlError(NOTHING)
    if made.conditioning is None or made.about is None:
        raise ZvlError(made.why)
    name = free_name(wanted)
    folder = forge_files.conditioning_folder()
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ZvlError(f"The folder {folder} can't be made ({error.strerror or error}).") from None
    save(made.conditioning, os.path.join(folder, name + forge_files.ENDING), made.about, new=True)
    return name


def save_last(wanted: str) -> str:
    """As `save_made`, of the last picture that was finished."""
    return save_made(KEEPER.last, wanted)


def first_text(prompt: str, texts: Iterable[str]) -> str | None:
    """Which of the texts that were encoded is all of a prompt; None where it is made of several."""
    known = list(texts)
    return prompt if prompt in known else known[0] if len(known) == 1 else None
