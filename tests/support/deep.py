"""A Qwen3-VL deeper than DeepStack goes, and what plain transformers reads behind a picture."""

from __future__ import annotations

import dataclasses

import tiny
import torch
from cases import TOKENS
from compare import TOLERANCE, relative_error

from zvl_ext.qwen3vl.language import Qwen3VL
from zvl_ext.qwen3vl.passes import Pass
from zvl_ext.reference import Reference
from zvl_ext.sequence import Sequence

LAYERS = 8  # of the deep model
DEEPSTACK = 3  # layers that DeepStack adds to; nothing goes on from behind one of them
DEEP = {"text": {**tiny.REGULAR["text"], "layers": LAYERS}, "vision": tiny.REGULAR["vision"]}


@dataclasses.dataclass
class Case:
    """One prompt behind one picture, and the states [tokens, hidden] that plain transformers has, embeddings first."""

    sequence: Sequence
    reference: Reference
    wanted: tuple[torch.Tensor, ...]

    def run(
        self, model: Qwen3VL, depth: int, prefix: Pass | None = None, tail: Pass | None = None
    ) -> tuple[Pass, Pass]:
        prefix, (tail,) = model.extend([self.sequence], self.reference, TOKENS, depth, prefix, [tail])
        return prefix, tail

    def check(self, prefix: Pass, tail: Pass, tolerance: float = TOLERANCE) -> None:
        """Every state that is kept is plain transformers', before the fork and behind it."""
        count, fork = len(self.wanted) - 1, self.sequence.fork
        assert (prefix.tokens, tail.tokens) == (fork, len(self.sequence.ids) - fork)
        for part, rows in ((prefix, slice(fork)), (tail, slice(fork, None))):
            assert part.keys.shape == part.values.shape == (part.depth, 2, part.tokens, 32)
            for index in range(part.depth + 1):
                layer = index - count - 1
                assert relative_error(part.state(layer, count), self.wanted[index][rows]) <= tolerance, (layer, rows)
