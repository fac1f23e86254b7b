"""What an analysis is asked for. Loads nothing heavy: the panel is built with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..framing import Size


@dataclass(frozen=True)
class Wanted:
    """What an analysis is asked for.

    Attributes:
        prompt: The picture's.
        shape: The picture's width and height.
        on_step: Told what is being done; what it raises ends the work.
        attention: Whether the attention is wanted, too, where a picture has to be made for it.
    """

    prompt: str = ""
    shape: Size = (1024, 1024)
    on_step: Callable[[str, int, int], None] = lambda what, done, of: None
    attention: bool = False
