"""What the X/Y/Z plot sets for one generation, kept on it."""

from __future__ import annotations

from typing import Any

VALUES = "zvl_axes"  # on p


def cell_of(p: Any) -> dict[str, Any]:
    """The values of a cell, by the options' names; empty outside of a plot."""
    values: dict[str, Any] = getattr(p, VALUES, {})
    return values
