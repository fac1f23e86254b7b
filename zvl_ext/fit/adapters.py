"""Two small matrices beside each of the image model's layers, learned with everything else as it is: a LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import ZvlError
from ..hosts.standalone_learning import learning
from ..hosts.standalone_lora import NEEDED
from .lots import Lots
from .memory import Learned

if TYPE_CHECKING:
    from ..loras import Pair
    from .judge import Judge
    from .loop import Schedule
    from .prepare import Prepared

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LAYERS = {"attention": _ATTENTION, "blocks": (*_ATTENTION, "w1", "w2", "w3")}  # by the ends of their names
_NAME = "default"  # as peft calls an adapter of no name


@dataclass(frozen=True)
class Form:
    """What a LoRA is like.

    Attributes:
        rank: Of each pair of matrices.
        alpha: Their product counts alpha by rank.
        layers: A key of LAYERS: which of the image model's layers have one.
    """

    rank: int = 16
    alpha: float = 16.0
    layers: str = "blocks"

    def of(self, transformer: Any) -> dict[str, tuple[int, int]]:
        """The layers that have one, by name, with their inputs and outputs."""
        ends = tuple(f".{end}" for end in LAYERS[self.layers])
        found = {name: each for name, each in transformer.named_modules() if name.endswith(ends)}
        return {name: (each.in_features, each.out_features) for name, each in found.items()}

    def learned(self, transformer: Any, blocks: int) -> Learned:
        """What it adds to the memory of an image model of so many blocks."""
        sizes = list(self.of(transformer).values())
        numbers = sum(self.rank * (inputs + outputs) for inputs, outputs in sizes)
        return Learned(numbers, 4 * sum(inputs + self.rank for inputs, _ in sizes) // blocks)


class Adapters:
    """A `loop.Learner` of a LoRA.

    Args:
        judge: Has the image model, which is frozen, and gets the LoRA: what it judges from now on is judged with it.
        learned, deciding: Examples to learn from, and those that decide when to stop.
        schedule: Its batch and its seed.

    Raises:
        ZvlError: peft is not there.
    """

    def __init__(self, judge: Judge, learned: Prepared, deciding: Prepared, schedule: Schedule, form: Form):
        self._judge, self._batch = judge, schedule.batch
        self._learned, self._deciding = learned, deciding
        self._lots = Lots(learned, schedule)
        self._pairs = _add(judge.transformer, form, schedule.seed)
        self._plain = judge.tables()
        self.parameters: dict[str, torch.Tensor] = {
            f"{layer}.{name}": each for layer, pair in self._pairs.items() for name, each in zip(("down", "up"), pair)
        }

    def learn(self, step: int, members: range) -> float:
        lot = self._lots.of(step, members)
        wanted = self._judge.wanted(self._learned, lot)
        with learning(self._judge.transformer, lot.conditionings, lot.ways, **self._plain):
            loss = self._judge.errors(self._learned, lot, wanted).sum() / self._batch
            loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def held_out(self) -> float:
        return float(self._judge.losses(self._deciding).mean())

    def bound(self) -> None:
        """They may be anything."""

    @torch.no_grad()
    def use(self, best: dict[str, torch.Tensor]) -> dict[str, Pair]:
        """Take parameters, and give them layer by layer."""
        for name, each in self.parameters.items():
            each.copy_(best[name])
        return self._pairs


def _add(transformer: Any, form: Form, seed: int) -> dict[str, Pair]:
    """Add a LoRA that changes nothing yet; its matrices by layer, float32, the same on every device."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ZvlError(f"Fitting a LoRA needs peft, which is not there. {NEEDED}") from error
    layers = form.of(transformer)
    transformer.add_adapter(LoraConfig(r=form.rank, lora_alpha=form.alpha, target_modules=list(layers)))
    drawn = np.random.default_rng((seed, 4))
    pairs = {}
    for layer, (inputs, _) in layers.items():
        added = transformer.get_submodule(layer)
        down, up = added.lora_A[_NAME].float().weight, added.lora_B[_NAME].float().weight
        # peft's own beginning, Kaiming's uniform one: within 1 by the root of the inputs, and nothing.
        first = drawn.uniform(-1, 1, tuple(down.shape)) / inputs**0.5
        with torch.no_grad():
            down.copy_(torch.from_numpy(first))
            up.zero_()
        pairs[layer] = (down.requires_grad_(), up.requires_grad_())
    return pairs
