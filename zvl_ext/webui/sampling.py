"""One batch of pictures while it is sampled: the weights of the reference, and whether it had a part at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..beginning import Beginning
from ..conditioning import Part
from ..errors import ZvlError
from ..hosts import forge
from ..options import BY_NAME, OPTIONS
from ..weighting import Weighting, way
from . import infotext
from .said import tell

if TYPE_CHECKING:
    from ..attention_shares import AttentionShares


def check(engine: Any, weightings: list[Weighting]) -> None:
    """Raise ZvlError where a loaded engine's image model can't be given weights: it lacks blocks, or is not the
    profile's.

    Args:
        weightings: Of each reference.
    """
    try:
        from ..hosts import forge_attention
    except ImportError as error:
        raise ZvlError(
            f"This version of the web UI samples in a way Z-Image VL does not know ({error}), so no weight can be "
            "set. Choose weight 1, or look for an update."
        ) from None
    for each in weightings:
        forge_attention.check(engine, each.blocks, each.profile)


@dataclass
class Watched:
    """What is wanted of a generation whose attention is measured, on the generation under the name WATCHED.

    Attributes:
        found: Gets what is measured.
        on_step: Told the step that begins, and how many there are.
    """

    found: AttentionShares
    on_step: Callable[[int, int], None] = lambda step, of: None


WATCHED = "zvl_watched"


class Sampling:
    """The sampling of one batch, of one pass or two.

    Attributes:
        acted: Whether a step has begun in which a reference has a part.
    """

    def __init__(self, p: Any, parts: tuple[Part, ...], weighs: bool, beginning: Beginning | None = None):
        """
        Args:
            parts: The references; () where rows act that need none.
            weighs: Whether the image model has something to weigh.
            beginning: What the first pass begins from besides noise.
        """
        self._p = p
        self._beginning = beginning
        self._from: Any = None  # hosts.forge_beginning.FromReference of the batch
        self._parts = parts
        self._weighs = weighs
        self._watched: Watched | None = p.__dict__.get(WATCHED)
        self._weights: Any = None  # hosts.forge_attention.Weights of the pass that is going on
        self._steps = 0
        self.acted = False

    def begin(self, engine: Any) -> None:
        """A pass begins: put the weights on the model that will be asked, and what it begins from before its
        sampler."""
        api = forge.is_api(self._p)

        def refusal(line: str) -> Exception:
            return forge.refusal(line, api)

        if self._beginning is not None and self._from is None:
            self._begin_from(self._beginning, refusal)
        if self._weighs or self._watched:
            from ..hosts.forge_attention import Weights

            self._weights = Weights(self._p, self._parts, refusal, self._watched and self._watched.found)
            self._weights.install(engine)

    def _begin_from(self, beginning: Beginning, refusal: Callable[[str], Exception]) -> None:
        try:
            from ..hosts.forge_beginning import FromReference
        except ImportError as error:
            tell(self._p, f"this version of the web UI is not known ({error}), so the picture began from noise alone.")
            return
        self._from = FromReference(self._p, beginning, refusal)
        self._from.install()

    def step(self, engine: Any) -> None:
        """A step begins, on a model that may have come since the last one."""
        denoiser = self._p.sampler.model_wrap_cfg
        self._steps += 1
        if self._watched is not None:
            self._watched.on_step(denoiser.step, denoiser.total_steps)
        done = way(denoiser.step, denoiser.total_steps)
        acts = not self._parts or any(part.weighting.at(done) for part in self._parts)
        self.acted = self.acted or self._began or acts
        if self._weights is not None:
            self._weights.keep(engine)

    def end(self) -> bool:
        """The batch is done: its parameters claim what happened, and nothing else. Whether the reference had a part."""
        parameters = self._p.extra_generation_params
        if not self._began:
            parameters.pop(BY_NAME["denoising_strength"].infotext, None)
        if line := self._without():
            infotext.clear(parameters)
            tell(self._p, line)
            return False
        if self._from is not None and self._from.note and not forge.interrupted():
            tell(self._p, self._from.note)
        if self._weighs and self._weights is not None and not self._weights.used:  # against all expectation
            for option in OPTIONS:
                if option.first in ("weight", "profile"):
                    parameters.pop(option.infotext, None)
            tell(self._p, "the weight had no effect: this web UI did not ask for it while sampling.")
        return True

    @property
    def _began(self) -> bool:
        """Whether the picture has begun from a reference."""
        return self._from is not None and self._from.used

    def _without(self) -> str:
        """Why the reference has had no part; "" where it had one, or where nobody has counted the steps."""
        if self.acted:
            return ""
        if forge.interrupted():
            return "the picture was ended before the reference had a part in it."
        if self._steps:
            return "no step lies between the starting and the ending step, so the picture is as without a reference."
        return ""
