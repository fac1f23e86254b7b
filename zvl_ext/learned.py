"""What files of learned numbers have in common: what is told of them, and of which form they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import ZvlError
from .outside import plain

ENDING = ".safetensors"
# How it was made: how long learning took, and the command, which anyone may type again.
MAKING = ("seconds", "command")
_LONGEST = 2000  # characters of a text that is told

About = tuple[tuple[str, str], ...]  # names, each with a text


class FromFile:
    """Learned numbers, of which their file tells.

    Attributes:
        about: What is told: names, each with a text.
    """

    about: About

    def told(self, name: str) -> str:
        """What is told of it under a name; "" where nothing is."""
        return dict(self.about).get(name, "")


def about_of(values: Mapping[str, Any], names: Iterable[str]) -> About:
    """What is told under some names, as texts that may be shown: a line each, of a bounded length. What is no text is
    written as JSON."""
    texts = {name: values[name] for name in names if name in values}
    written = {n: t if isinstance(t, str) else json.dumps(t, ensure_ascii=True) for n, t in texts.items()}
    return tuple((name, plain(text, _LONGEST)) for name, text in written.items() if text)


def check_format(metadata: Mapping[str, str], wanted: str, where: str, command: str) -> None:
    """Raise ZvlError where a file is not of a form such as `zvl-profile-1`.

    Args:
        where: The file, as a line may name it.
        command: What writes such files.
    """
    written = metadata.get("format", "")
    if written == wanted:
        return
    family = wanted[: -len(wanted.rpartition("-")[2])]  # "zvl-profile-"
    what = family.split("-")[1]
    if written.startswith(family):
        raise ZvlError(f"{where} is a {what} of another version ({plain(written, 30)}). Update Z-Image VL.")
    raise ZvlError(f"{where} is no {what}. One is written by `{command}`.")
