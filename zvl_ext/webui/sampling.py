"""One batch of pictures while it is sampled: the weights of the reference, and whether it had a part at all."""

from __future__ import annotations

from typing import Any

from .. import conditioner
from ..conditioner import Unit
from ..errors import ZvlError
from ..hosts import forge
from ..options import OPTIONS
from ..weighting import way
from . import infotext
from .said import tell


def check(engine: Any, units: list[Unit]) -> None:
    """Raise ZvlError where a loaded engine's image model can't be given the weights, or lacks blocks that are named."""
    try:
        from ..hosts import forge_attention
    except ImportError as error:
        raise ZvlError(
            f"This version of the web UI samples in a way Z-Image VL does not know ({error}), so no weight can be "
            "set. Choose weight 1, or look for an update."
        ) from None
    for unit in units:
        forge_attention.check(engine, unit.settings.blocks)


class Sampling:
    """The sampling of one batch, of one pass or two.

    Attributes:
        acted: Whether a step has begun in which a reference has a part.
    """

    def __init__(self, p: Any, units: list[Unit]):
        self._p = p
        self._parts = conditioner.parts_of(units)
        self._weighs = conditioner.units_weigh(units)
        self._weights: Any = None  # hosts.forge_attention.Weights of the pass that is going on
        self._steps = 0
        self.acted = False

    def begin(self, engine: Any) -> None:
        """A pass begins: put the weights on the model that will be asked."""
        if not self._weighs:
            return
        from ..hosts.forge_attention import Weights

        api = forge.is_api(self._p)
        self._weights = Weights(self._p, self._parts, lambda line: forge.refusal(line, api))
        self._weights.install(engine)

    def step(self, engine: Any) -> None:
        """A step begins, on a model that may have come since the last one."""
        denoiser = self._p.sampler.model_wrap_cfg
        self._steps += 1
        done = way(denoiser.step, denoiser.total_steps)
        self.acted = self.acted or any(part.weighting.at(done) for part in self._parts)
        if self._weights is not None:
            self._weights.keep(engine)

    def end(self) -> None:
        """The batch is done: its parameters claim what happened, and nothing else."""
        parameters = self._p.extra_generation_params
        if line := self._without():
            infotext.clear(parameters)
            tell(self._p, line)
        elif self._weights is not None and not self._weights.used:  # against all expectation
            for option in OPTIONS:
                if option.first == "weight":
                    parameters.pop(option.infotext, None)
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
