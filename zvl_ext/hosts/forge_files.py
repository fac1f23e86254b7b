"""Qwen3-VL weights and reference images in the web UI's folders."""

from __future__ import annotations

import contextlib
import functools
import os

from ..errors import ZvlError
from ..qwen3vl.checkpoint import Checkpoint
from ..qwen3vl.files import find, open_checkpoint
from ..qwen3vl.headers import WANTED

FOLDER = (
    "qwen3_vl"  # below the host's models folder; not its text_encoder folder, whose files it merges into the checkpoint
)


def model_folders() -> list[str]:
    from modules import paths, shared

    return [os.path.join(paths.models_path, FOLDER), *(getattr(shared.cmd_opts, "qwen3_vl_dirs", None) or [])]


def models() -> dict[str, str]:
    """Qwen3-VL weights the user has, name -> path."""
    return find([folder for folder in model_folders() if os.path.isdir(folder)])


def checkpoint(name: str) -> Checkpoint:
    """The headers of the weights of that name; "" means the first ones found.

    Raises:
        ZvlError: there are none, or the name is not listed. A name is only looked up, never used as a path.
    """
    found = models()
    if not found:
        raise ZvlError(
            f"No Qwen3-VL weights were found. {WANTED}, put it into {model_folders()[0]} and press the refresh button."
        )
    name = name or next(iter(found))
    if name not in found:
        raise ZvlError(f"There is no Qwen3-VL model {name!r}; there is " + ", ".join(found) + ".")
    return _opened(found[name], name, _signature(found[name]))


@functools.lru_cache(maxsize=4)
def _opened(path: str, name: str, signature: tuple) -> Checkpoint:
    """The headers, read once for each state of the files: the panel asks for them whenever a control moves."""
    return open_checkpoint(path, name)


def _signature(path: str) -> tuple:
    """Changes when a file of weights does, or what is in a folder of them."""
    with contextlib.suppress(OSError):
        files = [entry.path for entry in os.scandir(path) if entry.is_file()] if os.path.isdir(path) else [path]
        return tuple((file, (info := os.stat(file)).st_size, info.st_mtime_ns) for file in sorted(files))
    return ()


def reference_folder() -> str:
    """Where the XYZ plot finds reference images by name."""
    from modules import paths, shared

    return getattr(shared.cmd_opts, "zvl_reference_dir", None) or os.path.join(paths.models_path, FOLDER, "references")


def reference_files() -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(e.name for e in os.scandir(reference_folder()) if e.is_file() and not e.name.startswith("."))
    return []
