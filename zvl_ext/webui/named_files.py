"""Files that the web UI finds by name in a folder of its own: conditionings, profiles and projections."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from ..errors import ZvlError, shown
from ..hosts import forge_files
from ..outside import plain

_TOLD = 5  # names in a message


class NamedFiles:
    """Files of one kind.

    Args:
        what: As a message calls one of them.
        folder: Gives the folder.
        paths: Gives the files in it, name -> path.
        load: Reads one; raises ZvlError where it can't be used.
    """

    def __init__(
        self, what: str, folder: Callable[[], str], paths: Callable[[], dict[str, str]], load: Callable[[str], Any]
    ):
        self._what = what
        self._folder = folder
        self.paths = paths
        # As a file is now: a few, because whoever asks for one asks again.
        self._loaded = functools.lru_cache(maxsize=2)(lambda path, state: load(path))

    def opened(self, name: str) -> Any:
        """The file of that name. It is looked up in a listing, never used as a path.

        Raises:
            ZvlError: there is none, or it can't be used.
        """
        path = self.paths().get(name)
        if path is None:
            raise ZvlError(self.no_such(name))
        try:
            info = os.stat(path)
            return self._loaded(path, (info.st_ino, info.st_size, info.st_mtime_ns))
        except OSError:  # gone since
            raise ZvlError(self.no_such(name)) from None
        except ZvlError as error:
            raise ZvlError(str(error).replace(plain(path, 120), shown(name)).replace(path, shown(name))) from None

    def no_such(self, name: str) -> str:
        """That there is no file of a name, and what there is."""
        there = list(self.paths())
        some = ", ".join(plain(each) for each in there[:_TOLD]) or "nothing yet"
        more = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
        return f"There is no {self._what} {shown(name)} in {self._folder()} (there is {some}{more})."


def _conditioning(path: str) -> Any:
    from ..conditioning_file import load  # torch is behind it: late

    return load(path)


def _profile(path: str) -> Any:
    from ..profiles import read_profile

    return read_profile(path)


def _projection(path: str) -> Any:
    from ..projections import read_projection

    return read_projection(path)


# By the kind of the option that names one.
NAMED_FILES = {
    "conditioning": NamedFiles(
        "conditioning file", forge_files.conditioning_folder, forge_files.conditioning_paths, _conditioning
    ),
    "profile": NamedFiles("profile", forge_files.profile_folder, forge_files.profile_paths, _profile),
    "projection": NamedFiles("projection", forge_files.projection_folder, forge_files.projection_paths, _projection),
}
