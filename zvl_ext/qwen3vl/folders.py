"""Which files of a folder are one model, and whether they are all there.

A Hugging Face folder has config.json and one file `model.safetensors`, or parts `model-00001-of-00002.safetensors` that
an index lists. Other programs put single files of several models into one folder.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable

from ..outside import no_file, plain, read_json, reason
from .peek import WEIGHTS, is_weights

CONFIG, INDEX, WHOLE = "config.json", "model.safetensors.index.json", "model.safetensors"
CONFIG_LIMIT, _INDEX_LIMIT = 2**20, 2**24  # bytes; the published ones have 0.002 and 0.07 MB
_PART = re.compile(r"^(.*?)-?(\d{1,6})-of-(\d{1,6})$", re.IGNORECASE)
_PARTS = 1000  # of a model at most
# How browsers and download programs name a file that is still on its way, and what they leave beside it.
UNFINISHED = (".part", ".incomplete", ".aria2", ".crdownload", ".download", ".partial", ".tmp", ".!ut", ".!qb")
_HUB = os.path.join(".cache", "huggingface", "download")  # of `hf download --local-dir`


class FolderError(ValueError):
    """Why a folder's files are no model, as a line goes on after its name."""


def part_of(file: str) -> tuple[str, int, int] | None:
    """The set a part belongs to, its number and how many there are; None for a file that is no part."""
    stem, ending = os.path.splitext(os.path.basename(file))
    if not is_weights(ending) or not (match := _PART.match(stem)):
        return None
    return match[1] + ending, int(match[2]), int(match[3])


def sets(files: Iterable[str]) -> dict[str, list[str]]:
    """Names of files by the set of parts they belong to; a file that is no part is a set of its own."""
    found: dict[str, list[str]] = {}
    for file in sorted(files):
        part = part_of(file)
        found.setdefault(f"{part[0]} of {part[2]}" if part else file, []).append(file)
    return found


def listed(folder: str) -> list[str] | None:
    """The names that the folder's index gives; None where there is no index.

    Raises:
        FolderError: it can't be read, or names what lies elsewhere.
    """
    path = os.path.join(folder, INDEX)
    if no_file(path) == "not there":
        return None
    try:
        names = set(read_json(path, _INDEX_LIMIT)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = reason(error) if isinstance(error, (OSError, ValueError)) else "it lists no files"
        raise FolderError(f"{INDEX} can't be read ({what}). Download it again") from error
    if any(not isinstance(name, str) or not _plain(name) for name in names):
        raise FolderError(f"{INDEX} names files outside the folder. Download it again")
    return sorted(names)


def main_files(folder: str, files: Iterable[str]) -> list[str]:
    """The names of the files that are a folder's model: those its index lists, `model.safetensors`, or the only set.

    Args:
        files: Names of weights that lie in the folder.

    Raises:
        FolderError: several sets are there, or what `listed` says.
    """
    names = listed(folder)
    if names is not None:
        return names
    there = sets(files)
    if WHOLE in there:
        return [WHOLE]
    if len(there) > 1:
        raise FolderError("it has the files of several models. Name one of them, or give each a folder of its own")
    return next(iter(there.values()), [])


def missing(folder: str, names: list[str]) -> str:
    """Why a model's files are not all there, as a line goes on after its name; empty where they are."""
    if not names:
        return f"a .safetensors file is missing{_on_its_way(folder, '')}. Finish the download"
    for name in names:
        path = os.path.join(folder, name)
        what = no_file(path)
        if what == "not there":
            return f"{plain(name)} is missing{_on_its_way(folder, name)}. Finish the download"
        if what == "a folder":
            inside = " (the file is in it: move it up)" if os.path.isfile(os.path.join(path, name)) else ""
            return f"{plain(name)} is a folder, it has to be a file{inside}"
        if what:
            return f"{plain(name)} is {what}, it has to be a file"
        if on_its_way(path):
            return f"{plain(name)} is a download that has not finished. Let it finish"
    parts = [part for part in map(part_of, names) if part]
    if len(parts) == len(names) and len(parts) < min(parts[0][2], _PARTS):
        there = {number for _, number, _ in parts}
        first = next(number for number in range(1, len(parts) + 2) if number not in there)
        return f"part {first} of {parts[0][2]} is missing{_on_its_way(folder, '')}. Finish the download"
    return ""


def on_its_way(path: str) -> bool:
    """Whether a download program's file beside it says that a file is not whole yet."""
    return any(os.path.exists(path + ending) for ending in UNFINISHED)


def is_unfinished(name: str) -> bool:
    """Whether a name is that of a download of weights on its way."""
    stem, ending = os.path.splitext(name.lower())
    return ending in UNFINISHED and stem.endswith(WEIGHTS)


def _on_its_way(folder: str, name: str) -> str:
    """ " (a download of it has not finished)", where that can be seen."""
    for place in (folder, os.path.join(folder, _HUB)):
        with contextlib.suppress(OSError):
            for entry in os.listdir(place):
                lower = entry.lower()
                if lower.endswith(UNFINISHED) and (is_unfinished(entry) or place != folder) and name.lower() in lower:
                    return f"; {plain(entry)} is a download that has not finished"
    return ""


def _plain(name: str) -> bool:
    """A file's name alone, on any system."""
    return os.path.basename(name) == name not in ("", ".", "..") and not set(name) & set("/\\:\0")
