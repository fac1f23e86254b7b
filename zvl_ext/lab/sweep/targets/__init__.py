"""What makes a sweep's pictures. Each kind is one entry of TARGETS."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...work import Workers


@dataclass(frozen=True)
class Job:
    """A cell as it is sent to what makes it: no path of this machine is in it.

    Attributes:
        settings, asked: As `cells.Cell`'s.
        pictures: Encoded pictures by the options' names.
        group: Jobs of one group read the same pictures.
    """

    settings: dict[str, Any]
    asked: dict[str, Any]
    pictures: dict[str, bytes] = field(repr=False)
    group: str = ""


@dataclass(frozen=True)
class Made:
    """A picture, as PNG with its parameters, and what was said of it."""

    picture: bytes = field(repr=False)
    notes: tuple[str, ...] = ()


class Target(Workers, Protocol):
    """What makes pictures: does Jobs, gives Mades.

    Attributes:
        name: As people call it.
        identity: What decides how the pictures look besides their cells.
    """

    name: str
    identity: str


# By the argument that asks for it, in the order in which they are looked at: the module, which has `open_target(args)`.
TARGETS = {"webui": "webui", "dask": "cluster", "": "pipeline"}


def open_target(args: Any, say: Any) -> Target:
    """The target that the command line names.

    Raises:
        ZvlError: it can't be reached.
    """
    chosen = next(module for name, module in TARGETS.items() if not name or getattr(args, name))
    target: Target = importlib.import_module(f".{chosen}", __name__).open_target(args, say)
    return target
