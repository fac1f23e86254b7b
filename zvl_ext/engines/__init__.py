"""The two engines: a reference and prompts in, hidden states out.

A new engine is one module with the functions of `Module`, and one entry in ENGINES. This file loads nothing heavy: what
the panel needs to know of an engine stands here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from ..options import Settings
    from ..reference import References
    from .sources import Job, Sources


class Module(Protocol):
    """What an engine's module has."""

    def check_layer(self, settings: Settings, sources: Sources) -> None:
        """Raise ZvlError unless the model that reads has the settings' layers: before anything is loaded or run."""

    def states(
        self, settings: Settings, references: References, jobs: list[Job], sources: Sources
    ) -> list[dict[int, torch.Tensor]]:
        """Hidden states of each job's whole sequence at the settings' layers, by layer: float32 on the CPU, [tokens, as
        wide as the image model takes them]."""


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        module: Imports what runs it.
        language_model: Whether it reads with Qwen3-VL's language model, or needs the vision tower alone.
        keeps_first: Whether row 0 of the conditioning stays the text embeddings' own: position 0 is the attention sink,
            which is not about the picture.
    """

    module: Callable[[], Module]
    language_model: bool
    keeps_first: bool


def _blend() -> Module:
    from . import blend

    return blend


def _splice() -> Module:
    from . import splice

    return splice


ENGINES: dict[str, Engine] = {
    "blend": Engine(_blend, language_model=True, keeps_first=False),
    "splice": Engine(_splice, language_model=False, keeps_first=True),
}
