"""A folder of references: one picture for each."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..outside import no_file, open_regular, plain, reason

if TYPE_CHECKING:
    from ..reference import Reference

_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl")


def pictures(folder: str, out: str) -> dict[str, str]:
    """The pictures of a folder in the order of their names, and where what is made with each goes: path -> path.

    A picture is what begins as one, or is named as one: a damaged one is to be said, not passed over. The results have
    the references' names, with .png; where two differ in their ending alone, it is part of the name.

    Raises:
        ZvlError: there is no such folder or nothing in it, or `out` can't be a folder.
    """
    names = [os.path.basename(path) for path in listed(folder)]
    if os.path.realpath(out) == os.path.realpath(folder):
        raise ZvlError("--out must be another folder than --references, so that no reference is written over.")
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise ZvlError(f"--out {plain(out, 120)} can't be a folder ({reason(error)}).") from error
    return {os.path.join(folder, name): os.path.join(out, f"{own}.png") for name, own in _own_names(names).items()}


def listed(folder: str) -> list[str]:
    """The paths of the pictures of a folder, in the order of their names.

    Raises:
        ZvlError: there is no such folder or nothing in it.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and _is_picture(e.path))
    except OSError as error:
        raise ZvlError(f"--references {plain(folder, 120)} can't be read as a folder ({reason(error)}).") from error
    if not names:
        raise ZvlError(f"--references {plain(folder, 120)} has no pictures in it.")
    return [os.path.join(folder, name) for name in names]


def _own_names(names: list[str]) -> dict[str, str]:
    """Names without their endings, where no two become the same."""
    stems = {name: os.path.splitext(name)[0] for name in names}
    taken = Counter(each.casefold() for each in (*stems.values(), *names))
    return {name: stem if taken[stem.casefold()] == 1 else name for name, stem in stems.items()}


def _is_picture(path: str) -> bool:
    from ..pictures.formats import SIGN, may_be_picture

    if no_file(path):
        return False
    if path.lower().endswith(_NAMES):
        return True
    try:
        with open_regular(path) as file:
            return may_be_picture(file.read(SIGN))
    except OSError:
        return False


def each(files: dict[str, str], force: bool, make: Callable[[Reference, str], None]) -> int:
    """Make a picture with each reference, the steps of it on standard error.

    Args:
        files: As from `pictures`.
        force: Whether pictures that are there already are made again.
        make: Makes one with an opened reference and writes it.

    Returns:
        The exit code: 1 where a reference could not be used, which is said on standard error.
    """
    from tqdm import tqdm

    from ..reference import open_file

    kept = [] if force else [out for out in files.values() if os.path.exists(out)]
    skipped = 0
    for path, out in tqdm(list(files.items()), unit="picture", disable=None, leave=False):
        if out in kept:
            continue
        try:
            make(open_file(path), out)
        except ZvlError as error:
            skipped += 1
            print(f"zvl_ext: {plain(path, 120)} is skipped: {error}", file=sys.stderr)
    if kept:
        print(f"{len(kept)} of {len(files)} pictures were there already. --force makes them again.", file=sys.stderr)
    return 1 if skipped else 0
