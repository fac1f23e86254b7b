"""Finding Qwen3-VL's weights in folders that hold many other things, or that other programs share.

Listed is what fits, told by the beginnings of files and by `model_type`. No file is opened that is none, and depth,
number and time are bounded: a folder may be a whole disc, and a disc may be at the other end of a slow network.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..outside import no_file, read_json, read_regular
from . import kinds
from .folders import CONFIG, CONFIG_LIMIT, FolderError, is_unfinished, main_files, missing, on_its_way, part_of, sets
from .kinds import Kind
from .peek import GGUF, is_weights, peek

_DEPTH = 5  # folders below one that is named: a Hugging Face cache's snapshots lie 4 below its parent
_ENTRIES = 20_000  # files and folders that are looked at
_SECONDS = 8.0
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([^/]+)(?:/(.*))?$")  # of a Hugging Face cache


@dataclass(frozen=True)
class Model:
    """One set of weights.

    Attributes:
        name: Unique in a list, and readable; never a path.
        path: What `open_checkpoint` takes.
        kind: What it is; None where its beginning does not tell.
        problem: Why it can't be used as it is, as a line goes on after its name; empty where it can.
    """

    name: str
    path: str
    kind: Kind | None
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """What a search found, each by its name.

    Attributes:
        models: What fits, in the order in which it is offered: what is whole and has both parts first.
        others: Weights that do not fit; opening them says what they are.
        cut: Where and why the search ended too early; empty where it did not.
    """

    models: dict[str, Model]
    others: dict[str, Model]
    cut: str = ""


def find(folders: list[str]) -> dict[str, str]:
    """Weights in the given folders: name -> path, what is whole and has both parts first.

    Names are relative to the folder they were found in, so that a name from a request can only ever name what is
    listed.
    """
    return {name: model.path for name, model in look(folders).models.items()}


def look(places: list[str]) -> Listing:
    """The models in folders; a file may be named, too."""
    search = _Search()
    found: dict[str, Model] = {}
    cut = ""
    try:
        for root in (os.path.abspath(place) for place in places if "\0" not in place):
            for model in search.models(root):
                name = next((name for name in _names(model.path, root) if name not in found), "")
                if name:
                    found[name] = replace(model, name=name)
    except _CutError as error:
        cut = str(error)
    fitting = [model for model in found.values() if model.kind and model.kind.fits]
    fitting.sort(key=lambda model: (bool(model.problem), not (model.kind and model.kind.language)))
    models = {model.name: model for model in fitting}
    return Listing(models, {name: model for name, model in found.items() if name not in models}, cut)


def mmproj_beside(path: str, width: int) -> str:
    """The vision tower of that width that lies beside a GGUF of the language model; "" where there is none."""
    folder = os.path.dirname(os.path.abspath(path))
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(folder)):
            other = os.path.join(folder, name)
            if name.lower().endswith(GGUF):
                kind = peek([other]).kind
                if kind and kind.eyes and not kind.language and kind.width == width:
                    return other
    return ""


def _names(path: str, root: str) -> Iterator[str]:
    """Names for a path at or below a root, the best one first."""
    match = _SNAPSHOT.search(path.replace(os.sep, "/"))
    if match and not {"", ".", ".."} & {*match[1].split("--")}:
        repository, rest = match[1].replace("--", "/"), f"/{match[3]}" if match[3] else ""
        yield repository + rest
        yield f"{repository}@{match[2][:8]}{rest}"
    relative = os.path.relpath(path, root).replace(os.sep, "/")
    base = os.path.basename(root) or "models"
    if relative == ".":
        yield base
    else:
        yield relative
        yield f"{base}/{relative}"


class _CutError(Exception):
    """A search has to end; the message says where and why."""


@dataclass
class _Search:
    """One search: what it may still look at, and what it has seen."""

    until: float = field(default_factory=lambda: time.monotonic() + _SECONDS)
    left: int = _ENTRIES
    here: set[tuple[str, ...]] = field(default_factory=set)
    elsewhere: set[tuple[str, ...]] = field(default_factory=set)

    def models(self, root: str) -> Iterator[Model]:
        """Models at and below a root, their names still to be given.

        Files that were found below an earlier root are not found again, nor in another snapshot of a Hugging Face
        cache, by whatever links they are reached. Other links below the same root are names that the user gave.

        Raises:
            _CutError: the search has to end here; the message says why.
        """
        self.elsewhere |= self.here
        self.here.clear()
        if is_weights(root) and not no_file(root):
            yield from self._sets(os.path.dirname(root), [os.path.basename(root)], "")
        else:
            yield from self._below(root, ())

    def _below(self, folder: str, above: tuple[str, ...]) -> Iterator[Model]:
        real = os.path.realpath(folder)
        if real in above:  # links in a circle
            return
        files, folders = self._entries(folder)
        yield from self._in(folder, files, folders)
        if len(above) < _DEPTH:
            for name in _worth_a_look(folder, folders):
                yield from self._below(os.path.join(folder, name), (*above, real))

    def _entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of files and of folders, links followed; what is neither is left out, and what can't be written."""
        files: list[str] = []
        folders: list[str] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                self._step(folder)
                with contextlib.suppress(OSError):  # a link that leads nowhere, or in a circle
                    if entry.name.isprintable() and entry.is_dir():
                        folders.append(entry.name)
                    elif entry.name.isprintable() and entry.is_file():
                        files.append(entry.name)
        return sorted(files), sorted(folders)

    def _step(self, folder: str) -> None:
        self.left -= 1
        if self.left < 0 or time.monotonic() > self.until:
            why = f"{_ENTRIES} entries were looked at" if self.left < 0 else f"it took {_SECONDS:.0f} seconds"
            raise _CutError(f"The search for weights ended in {folder}: {why}. Name the model's own folder.")

    def _in(self, folder: str, files: list[str], folders: list[str]) -> Iterator[Model]:
        """The models whose files lie in this folder itself."""
        weights = [name for name in files if is_weights(name)]
        kind = _config_kind(folder) if CONFIG in files else None
        mine: list[str] = []
        if kind:
            with contextlib.suppress(FolderError):  # told when it is opened; here its files are looked at one by one
                mine = main_files(folder, weights)
                if mine or any(map(is_weights, folders)) or any(map(is_unfinished, files)):
                    paths = [os.path.join(folder, name) for name in mine]
                    yield from self._new(folder, paths, kind, missing(folder, mine))
        yield from self._sets(folder, [name for name in weights if name not in mine], "" if kind else CONFIG)

    def _sets(self, folder: str, weights: list[str], without: str) -> Iterator[Model]:
        """The models that files are which no configuration speaks of."""
        for members in sets(weights).values():
            self._step(folder)
            paths = [os.path.join(folder, name) for name in members]
            kind = peek(paths).kind
            if kind and kind.eyes_apart and mmproj_beside(paths[0], kind.width):
                kind = replace(kind, eyes=True)
            if part_of(members[0]):
                problem = f"{without} is missing" if without else "its parts are not one model"
                yield from self._new(folder, paths, kind, problem)
            else:
                yield from self._new(paths[0], paths, kind, "")

    def _new(self, path: str, weights: list[str], kind: Kind | None, problem: str) -> Iterator[Model]:
        key = tuple(sorted(map(os.path.realpath, weights))) or (os.path.realpath(path),)
        cached = _SNAPSHOT.search(path.replace(os.sep, "/"))
        if key not in (self.elsewhere | self.here if cached else self.elsewhere):
            self.here.add(key)
            yield Model("", path, kind, problem or unfinished(weights))


def unfinished(paths: list[str]) -> str:
    """Why a model's files are not whole, as the end of "it is not whole: …"; empty where they are, as far as their
    beginnings tell."""
    if any(map(on_its_way, paths)):
        return "a download that has not finished"
    return peek(paths).problem


def _config_kind(folder: str) -> Kind | None:
    with contextlib.suppress(OSError, ValueError):
        return kinds.of_config(read_json(os.path.join(folder, CONFIG), CONFIG_LIMIT))
    return None


def _worth_a_look(folder: str, folders: list[str]) -> list[str]:
    """Which folders are gone into, in order: of a Hugging Face cache its snapshots, the current one first."""
    if os.path.basename(folder).startswith("models--"):
        return ["snapshots"] if "snapshots" in folders else []
    if os.path.basename(folder) == "snapshots":
        current = b""
        with contextlib.suppress(OSError, ValueError):
            current = read_regular(os.path.join(os.path.dirname(folder), "refs", "main"), 100)
        folders = sorted(folders, key=lambda name: name.encode() != current.strip())
    return [name for name in folders if not name.startswith(".") and not is_weights(name)]
