"""One batch of pictures while it is sampled: the weights of the reference, and whether it had a part at all."""

from __future__ import annotations

from typing import Any

from .. import conditioner
from ..conditioning import Part
from ..errors import ZvlError
from ..hosts import forge
from ..options import BY_NAME, Settings
from ..weighting import way
from . import infotext
from .said import tell


def check(engine: Any, blocks: str) -> None:
    """Raise ZvlError where a loaded engine's image model can't be given the weight, or has none of the blocks named."""
    try:
        from ..hosts import forge_attention
    except ImportError as error:
        raise ZvlError(
            f"This version of the web UI samples in a way Z-Image VL does not know ({error}), so no weight can be "
            "set. Choose weight 1, or look for an update."
        ) from None
    forge_attention.check(engine, blocks)


class Sampling:
    """The sampling of one batch, of one pass or two.

    Attributes:
        acted: Whether a step has begun in which the reference has a part.
    """

    def __init__(self, p: Any, settings: Settings):
        self._p = p
        self._weighting = conditioner.weighting_of(settings)
        self._weighs = conditioner.weighs(settings)
        self._weights: Any = None  # hosts.forge_attention.Weights of the pass that is going on
        self._steps = 0
        self.acted = False

    def begin(self, engine: Any) -> None:
        """A pass begins: put the weights on the model that will be asked."""
        if not self._weighs:
            return
        from ..hosts.forge_attention import Weights

        api = forge.is_api(self._p)
        self._weights = Weights(self._p, (Part(self._weighting),), lambda line: forge.refusal(line, api))
        self._weights.install(engine)

    def step(self, engine: Any) -> None:
        """A step begins, on a model that may have come since the last one."""
        denoiser = self._p.sampler.model_wrap_cfg
        self._steps += 1
        self.acted = self.acted or self._weighting.at(way(denoiser.step, denoiser.total_steps)) != 0.0
        if self._weights is not None:
            self._weights.keep(engine)

    def end(self) -> None:
        """The batch is done: its parameters claim what happened, and nothing else."""
        parameters = self._p.extra_generation_params
        if line := self._without():
            infotext.clear(parameters)
            tell(self._p, line)
        elif self._weights is not None and not self._weights.used:  # against all expectation
            parameters.pop(BY_NAME["weight"].infotext, None)
            tell(self._p, "the weight had no effect: this web UI did not ask for it while sampling.")

    def _without(self) -> str:
        """Why the reference has had no part; "" where it had one, or where nobody has counted the steps."""
        if self.acted:
            return ""
        if forge.interrupted():
            return "the picture was ended before the reference had a part in it."
        if self._steps:
            return "no step lies between the starting and the ending step, so the picture is as without a reference."
        return ""
