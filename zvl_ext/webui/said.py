"""What is said to a user about a picture that was made."""

from __future__ import annotations

from typing import Any

from ..errors import PRODUCT, titled, untitled
from ..hosts import forge
from . import infotext


def tell(p: Any, line: str) -> None:
    """Say something about a picture: under it in the panel; over the API, where nothing is shown, in its parameters."""
    line = titled(line)
    p.comment(line)  # the host keeps a line once, however many passes say it
    if forge.is_api(p):
        told = p.extra_generation_params.get(infotext.NOTE, f"{PRODUCT}:")
        if untitled(line) not in told:
            p.extra_generation_params[infotext.NOTE] = f"{told} {untitled(line)}"
