"""Opening Qwen3-VL's weights: a Hugging Face folder, or one file. Never a pickle.

What is no Qwen3-VL-4B is refused with what it is, what is not whole with what is missing of it.
"""

from __future__ import annotations

import os
from typing import Any

from ..errors import ZvlError
from ..outside import no_file, read_json, reason
from . import config as configuration
from . import kinds
from .checkpoint import Checkpoint, own_head_only, readable_shapes
from .folders import CONFIG, CONFIG_LIMIT, FolderError, is_unfinished, main_files, missing, part_of
from .headers import read_headers
from .kinds import Kind
from .listing import find, mmproj_beside, unfinished
from .peek import GGUF, is_weights, peek
from .wanted import WANTED

__all__ = ["find", "open_checkpoint"]


def open_checkpoint(path: str, name: str = "", any_size: bool = False) -> Checkpoint:
    """Read the headers of a folder's files or of one file.

    Args:
        any_size: Whether a whole Qwen3-VL of another size than 4B is opened, too: engine blend can read with it through
            a projection, and whoever reads says when there is none (`Checkpoint.require_width`).

    Raises:
        ZvlError: not there, not weights, damaged, or not a Qwen3-VL-4B.
    """
    name = name or os.path.basename(os.path.normpath(path))
    what = no_file(path)
    if what == "a folder":
        return _open_folder(path, name, any_size)
    if what == "not there":
        raise ZvlError(f"{name}: there is nothing at {path}. {WANTED}.")
    if what:
        raise ZvlError(f"{name}: it is {what}. {WANTED}.")
    return _open_file(path, name, any_size)


def _open_folder(path: str, name: str, any_size: bool) -> Checkpoint:
    files, folders = _weights(path, name)
    config = _config(path, name, files, folders)
    kind = kinds.of_config(config) or Kind("another model")
    _require(kind, name, any_size, ", by its config.json")
    try:
        names = main_files(path, files) or folders
    except FolderError as error:
        raise ZvlError(f"{name}: {error}.") from error
    if problem := missing(path, names):
        raise ZvlError(f"{name}: {problem}.")
    paths = [os.path.join(path, file) for file in names]
    for each in paths:
        _require_whole(each, name)
    tensors, scales, _ = read_headers(paths, name)
    config = configuration.checked(config, readable_shapes(tensors), name)
    return Checkpoint(path, name, config, own_head_only(tensors, config), scales)


def _open_file(path: str, name: str, any_size: bool) -> Checkpoint:
    if is_unfinished(path):
        raise ZvlError(f"{name} is a download that has not finished. Let it finish, or download the file again.")
    if not is_weights(path):
        raise ZvlError(f"{name}: only folders, .safetensors and .gguf files are opened. {WANTED}.")
    _require_whole(path, name)
    if part := part_of(path):
        raise ZvlError(
            f"{name} is part {part[1]} of {part[2]} of a model. Choose its folder, with all parts and config.json."
        )
    kind = peek([path]).kind or Kind("a file without tensors")
    tower = mmproj_beside(path, kind.width) if kind.eyes_apart else ""
    if kind.eyes_apart and not tower:
        raise ZvlError(f"{name} is {kind.name}. Put its mmproj file, the vision tower, beside it.")
    if not tower:
        _require(kind, name, any_size)
    tensors, scales, metadata = read_headers([path, tower] if tower else [path], name)
    shapes = readable_shapes(tensors)
    config = configuration.from_metadata(metadata)
    if config is None:
        config = configuration.config_from_shapes(shapes, name)
    config = configuration.checked(config, shapes, name, "its configuration")
    return Checkpoint(path, name, config, own_head_only(tensors, config), scales)


def _weights(path: str, name: str) -> tuple[list[str], list[str]]:
    """The names in a folder that are those of weights: of files, and of folders."""
    try:
        names = sorted(filter(is_weights, os.listdir(path)))
    except OSError as error:
        raise ZvlError(f"{name}: the folder can't be read ({reason(error)}).") from error
    kinds_of_names = {each: no_file(os.path.join(path, each)) for each in names}
    return [n for n, what in kinds_of_names.items() if not what], [n for n, what in kinds_of_names.items() if what]


def _config(path: str, name: str, files: list[str], others: list[str]) -> Any:
    """What a folder's config.json holds."""
    file = os.path.join(path, CONFIG)
    what = no_file(file)
    try:
        if not what:
            return read_json(file, CONFIG_LIMIT)
        problem = f"it is {what}"
    except (OSError, ValueError) as error:
        raise ZvlError(f"{name}: config.json can't be read ({reason(error)}). Download it again.") from error
    if is_weights(path) and not others:
        instead = f"{name} is a folder, it has to be a file: move the file that is in it up"
    elif any(map(part_of, files)):
        instead = "These are parts of a model: put config.json and the other small files of its folder beside them"
    elif len(files) == 1:
        instead = f"Choose the file {files[0]} itself, or put the config.json of its folder beside it"
    else:
        instead = "Choose a model's own folder, or one file"
    raise ZvlError(f"{name}: config.json can't be read ({problem}). {instead}.")


def _require(kind: Kind, name: str, any_size: bool, by: str = "") -> None:
    if not (kind.fits or (any_size and kind.projectable)):
        raise ZvlError(f"{name} is not a Qwen3-VL-4B: it is {kind.name}{by}. {WANTED}.")


def _require_whole(path: str, name: str) -> None:
    """Raise ZvlError for what would be found out late, or told in a library's words."""
    if problem := unfinished([path]):
        base = os.path.basename(path)
        whole = base if name.endswith(base) else f"{name}: {base}"
        form = "GGUF" if path.lower().endswith(GGUF) else "safetensors"
        raise ZvlError(f"{whole} is not a whole {form} file ({problem}). Download it again.")
