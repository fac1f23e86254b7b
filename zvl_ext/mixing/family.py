"""A family of choices is one table from name to function; this looks a name up in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Member = TypeVar("Member")


def member(family: Mapping[str, Member], name: str, what: str) -> Member:
    """The member of that name.

    Raises:
        ValueError: there is none; `what` says of which family.
    """
    if name not in family:
        raise ValueError(f"unknown {what} {name!r}")
    return family[name]
