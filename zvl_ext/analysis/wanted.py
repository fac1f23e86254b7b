"""What an analysis is asked for. Loads nothing heavy: the panel is built with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..declaration import Option

if TYPE_CHECKING:
    from ..framing import Size


# How the picture is made that attention is measured in. CFG scale counts as web UIs do: 1 is none.
SAMPLED = {
    option.name: option
    for option in (
        Option("width", "integer", 1024, "Width", "In pixels.", minimum=64, maximum=4096),
        Option("height", "integer", 1024, "Height", "In pixels.", minimum=64, maximum=4096),
        Option("steps", "integer", 8, "Steps", "Of sampling.", minimum=1, maximum=100),
        Option("cfg", "number", 1.0, "CFG scale", "Guidance by the negative prompt.", minimum=1.0, maximum=31.0),
        Option("shift", "number", 9.0, "Shift", "Of the steps towards noise.", minimum=0.0, maximum=100.0),
        Option("seed", "integer", 0, "Seed", "Of the picture's noise.", minimum=0, maximum=2**32 - 1),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What an analysis is asked for.

    Attributes:
        prompt: The picture's.
        shape: The picture's width and height.
        on_step: Told what is being done; what it raises ends the work.
        attention: Whether the attention is wanted, too, where a picture has to be made for it.
        steps, cfg, shift, seed: That picture's.
    """

    prompt: str = ""
    shape: Size = (1024, 1024)
    on_step: Callable[[str, int, int], None] = lambda what, done, of: None
    attention: bool = False
    steps: int = SAMPLED["steps"].default
    cfg: float = SAMPLED["cfg"].default
    shift: float = SAMPLED["shift"].default
    seed: int = SAMPLED["seed"].default
