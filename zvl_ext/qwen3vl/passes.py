"""What a run of Qwen3-VL's language model leaves, and how further runs go on from it.

The language model is causal, and each layer needs the one before it only. So nothing is ever run twice: what a run
leaves (a `Pass`) is enough to read a prompt behind the same reference, and to go on to a deeper layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import ZvlError
from .checkpoint import Checkpoint


@dataclass(frozen=True)
class Pass:
    """What the language model leaves for consecutive tokens; on the CPU, in the model's dtype.

    Attributes:
        states: [depth + 1, tokens, hidden]: the residual stream before the first layer, after one layer, and so on.
            Where `depth` is all layers there is one entry more: the last state after the final norm.
        keys, values: [depth, key-value heads, tokens, head_dim], of each layer's attention.
    """

    states: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @property
    def depth(self) -> int:
        return self.keys.shape[0]

    @property
    def tokens(self) -> int:
        return self.states.shape[1]

    @property
    def last(self) -> torch.Tensor:
        """The residual stream after the last of these layers [tokens, hidden], where a deeper run goes on."""
        return self.states[self.depth]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"states": self.states, "keys": self.keys, "values": self.values}

    def state(self, layer: int, count: int) -> torch.Tensor:
        """Hidden states [tokens, hidden] at a layer, counted as in transformers' `hidden_states` of a model with
        `count` layers."""
        return self.states[count + 1 if layer == -1 else count + 1 + layer]

    def deepened(self, further: Pass) -> Pass:
        """With the layers of a run that went on from here."""
        return Pass(*(torch.cat([mine, new]) for mine, new in zip(self.tensors().values(), further.tensors().values())))


def whole_states(prefix: Pass, tail: Pass | None, layer: int, checkpoint: Checkpoint) -> torch.Tensor:
    """Hidden states of a whole sequence at a layer, float32 [tokens, hidden] on the CPU.

    Raises:
        ZvlError: values that are not finite.
    """
    states = torch.cat([part.state(layer, checkpoint.layers) for part in (prefix, tail) if part]).float()
    if not torch.isfinite(states).all():
        raise ZvlError(
            f"Hidden layer {layer} of {checkpoint.name} has values that are not finite. Choose the device cpu, or "
            "other weights."
        )
    return states
