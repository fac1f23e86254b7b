"""Qwen3-VL weights, reference images, conditioning files, profiles and projections in the web UI's folders."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
from typing import Any

from ..errors import ZvlError, shown
from ..outside import no_file, open_regular, plain
from ..pictures.formats import SIGN, may_be_picture
from ..qwen3vl.checkpoint import Checkpoint
from ..qwen3vl.files import open_checkpoint
from ..qwen3vl.listing import Listing, Model, look
from ..qwen3vl.peek import GGUF, is_weights
from ..qwen3vl.tokenizer import Words, tokenizer
from ..qwen3vl.wanted import WANTED

FOLDER = "qwen3_vl"  # below the host's models folder
ENDING = ".safetensors"  # of conditioning files, profiles and projections
_TOLD = 5  # names in a message


def model_folders() -> list[str]:
    """The folders for Qwen3-VL's weights; the first is where new ones belong."""
    from modules import paths, shared

    named = getattr(shared.cmd_opts, "qwen3_vl_dirs", None) or []
    return [os.path.join(paths.models_path, FOLDER), *map(os.path.expanduser, named)]


def _text_encoders() -> list[str]:
    """The web UI's own folders of text encoders, and the files that it lists itself: whoever uses an image model that
    reads with Qwen3-VL has it there. Looked at only: to the web UI's list of modules they are not added."""
    from modules import paths, shared

    folders = [os.path.join(paths.models_path, "text_encoder")]
    for flag in ("text_encoder_dirs", "text_encoder_dir"):  # newer and older web UIs
        named = getattr(shared.cmd_opts, flag, None) or []
        folders += [named] if isinstance(named, str) else named
    listed: dict[str, Any] = {}
    with contextlib.suppress(ImportError, AttributeError):
        from modules_forge import main_entry

        listed = main_entry.module_list
    return [*folders, *(str(path) for path in list(listed.values()) if is_weights(str(path)))]


def models() -> dict[str, str]:
    """Qwen3-VL weights the user has, name -> path; looked for anew. Those of other sizes come last, and only where
    there are projections, without which they can't be used."""
    _search.cache_clear()
    found = _found()
    others = found.others.values() if projection_paths() else ()
    offered = [*found.models.values(), *(each for each in others if each.kind and each.kind.projectable)]
    return {model.name: model.path for model in offered}


def _found() -> Listing:
    places = (*model_folders(), *_text_encoders())
    return _search(places, tuple(_state(place) for place in places))


@functools.lru_cache(maxsize=1)
def _search(places: tuple[str, ...], state: tuple) -> Listing:
    """Kept, because the panel asks for the weights whenever a control moves, and discs may be slow."""
    return look(list(places))


def checkpoint(name: str) -> Checkpoint:
    """The headers of the weights of that name; "" means the first ones found.

    Raises:
        ZvlError: there are none, the name is not listed, or they can't be used. A name is only looked up, never used as
            a path.
    """
    found = _found()
    model = _named(found, name)
    if model is None or not os.path.exists(model.path):
        _search.cache_clear()
        found = _found()
        model = _named(found, name)
    if model is None:
        raise ZvlError(_no_such(found, name))
    return _opened(model.path, model.name, _signature(model.path))


def words(opened: Checkpoint) -> Words:
    """The tokenizer of weights: the one beside them, or the web UI's own for Z-Image, which is the same.

    Raises:
        ZvlError: there is none.
    """
    import backend

    theirs = os.path.join(next(iter(backend.__path__)), "huggingface", "Tongyi-MAI", "*", "tokenizer")
    folders = [opened.tokenizer_folder, *sorted(glob.glob(theirs))]
    folder = next((each for each in folders if os.path.isfile(os.path.join(each, "tokenizer.json"))), None)
    if folder is None:
        raise ZvlError(
            f"{opened.name} has no tokenizer.json, and this web UI none that is known. Put the one of a Qwen3-VL "
            "folder beside it."
        )
    return tokenizer(folder)


def _named(found: Listing, name: str) -> Model | None:
    return (found.models | found.others).get(name) if name else next(iter(found.models.values()), None)


def _no_such(found: Listing, name: str) -> str:
    if found.models:
        first = [plain(each) for each in list(found.models)[:_TOLD]]
        more = f" and {len(found.models) - _TOLD} more" if len(found.models) > _TOLD else ""
        return f"There is no Qwen3-VL model {shown(name)}; there is {', '.join(first)}{more}."
    if found.cut:
        return f"No Qwen3-VL weights were found. {found.cut}"
    return f"No Qwen3-VL weights were found. Put them into {model_folders()[0]} and press the refresh button. {WANTED}."


@functools.lru_cache(maxsize=4)
def _opened(path: str, name: str, signature: tuple) -> Checkpoint:
    """The headers, read once for each state of the files: the panel asks for them whenever a control moves."""
    return open_checkpoint(path, name, any_size=True)


def _signature(path: str) -> tuple:
    """Changes when a file of weights does, or what is in a folder of them. A GGUF belongs to what lies beside it."""
    try:
        folder = path if os.path.isdir(path) else os.path.dirname(path) if path.lower().endswith(GGUF) else ""
        files = sorted(entry.path for entry in os.scandir(folder) if entry.is_file()) if folder else [path]
        return tuple((file, *_state(file)) for file in files)
    except OSError:
        return (object(),)  # equal to nothing


def _state(path: str) -> tuple[int, int]:
    """Changes when a file does, or the names in a folder."""
    with contextlib.suppress(OSError):
        info = os.stat(path)
        return info.st_size, info.st_mtime_ns
    return 0, 0


def reference_folder() -> str:
    """Where the XYZ plot finds reference images by name."""
    from modules import paths, shared

    return getattr(shared.cmd_opts, "zvl_reference_dir", None) or os.path.join(paths.models_path, FOLDER, "references")


def reference_files() -> list[str]:
    """The names of the files in the reference folder that begin as a picture does."""
    return [name for name, path in reference_paths().items() if _begins_as_picture(path)]


def reference_paths() -> dict[str, str]:
    """The files in the reference folder, name -> path: none that is hidden, or has a name that a page can't show."""
    return _shown_files(reference_folder())


def conditioning_folder() -> str:
    """Where conditioning files are saved and found by name."""
    from modules import paths

    return os.path.join(paths.models_path, FOLDER, "conditionings")


def conditioning_paths() -> dict[str, str]:
    """The conditioning files, name without ending -> path."""
    return _named_files(conditioning_folder())


def profile_folder() -> str:
    """Where profiles are found by name."""
    from modules import paths

    return os.path.join(paths.models_path, FOLDER, "profiles")


def profile_paths() -> dict[str, str]:
    """The profiles, name without ending -> path."""
    return _named_files(profile_folder())


def projection_folder() -> str:
    """Where projections are found by name."""
    from modules import paths

    return os.path.join(paths.models_path, FOLDER, "projections")


def projection_paths() -> dict[str, str]:
    """The projections, name without ending -> path."""
    return _named_files(projection_folder())


def _named_files(folder: str) -> dict[str, str]:
    files = _shown_files(folder)
    return {name[: -len(ENDING)]: path for name, path in files.items() if name.endswith(ENDING) and name != ENDING}


def _shown_files(folder: str) -> dict[str, str]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = {e.name: e.path for e in entries if e.name.isprintable() and not e.name.startswith(".")}
        return {name: found[name] for name in sorted(found) if not no_file(found[name])}
    return {}


def _begins_as_picture(path: str) -> bool:
    with contextlib.suppress(OSError), open_regular(path) as file:
        return may_be_picture(file.read(SIGN))
    return False
