"""The bench: weights, references and prompts that both sides get, and what one measurement says."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...engines.sources import Sources, Text
from ...mixing.statistics import measure
from ...options import Settings
from ...presets import PRESETS
from ...qwen3vl.checkpoint import Checkpoint
from ...reference import Reference, open_reference
from ...sequence import HEAD, TAIL, Sequence, build_sequence
from ...store import Store
from .sides import Ours
from .size import Size, side

MIB = 2**20
PRESET = "Research default"  # engine blend: Qwen3-VL's language model reads, as in the naive way


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        naive: What the naive way takes; None where there is nothing to compare with.
        ours: What this product takes; None where it was not measured, and the note says why.
        unit: Of both.
        target: At most.
        absolute: The target is for `ours` itself, not for the ratio.
    """

    name: str
    unit: str
    naive: float | None
    ours: float | None
    target: float | None = None
    absolute: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or not self.naive else self.ours / self.naive

    @property
    def met(self) -> bool | None:
        """None without a target or a measurement."""
        value = self.ours if self.absolute else self.ratio
        return None if value is None or self.target is None else value <= self.target

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"ratio": self.ratio, "met": self.met}


@functools.cache
def reference_of(image_tokens: int, number: int = 0) -> Reference:
    """A square picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (side(image_tokens), side(image_tokens), 3))
    return open_reference(Image.fromarray(pixels.astype(np.uint8)))


class Bench:
    """Weights, references and prompts that both sides get.

    Args:
        say: Takes lines about the progress.
    """

    def __init__(self, size: Size, checkpoint: Checkpoint, repetitions: int, say: Callable[[str], None]):
        self.size = size
        self.checkpoint = checkpoint
        self.repetitions = repetitions
        self.say = say
        self.ours = Ours(checkpoint)
        self.statistics = measure(self.embeddings(10**6, 256))

    def encode(self, text: str) -> list[int]:
        """Ids of the template's parts: the words among them are any, the weights know none."""
        start, end = self.size.special, self.size.special + 1
        return {HEAD: [start, 1, 2], TAIL: [end, 2, start, 3, 2], "": []}[text]

    def text(self, number: int) -> Text:
        """A prompt of random tokens with random text embeddings."""
        random = np.random.default_rng(number)
        head, tail = self.encode(HEAD), self.encode(TAIL)
        words = random.integers(self.size.special, size=self.size.text_tokens - len(head) - len(tail)).tolist()
        return Text(f"prompt {number}", (*head, *words, *tail), self.embeddings(number, self.size.text_tokens))

    def embeddings(self, number: int, count: int) -> torch.Tensor:
        return torch.randn(count, self.checkpoint.hidden_size, generator=torch.Generator().manual_seed(number))

    def sequence(self, text: Text, reference: Reference) -> Sequence:
        grid = self.checkpoint.grid(reference, self.size.references[1])
        return build_sequence(text.ids, grid, self.encode, vision=self.checkpoint.vision_tokens)

    def settings(self, image_tokens: int, **more: Any) -> Settings:
        """Those of PRESET, whatever a fresh panel has, at the size's layer."""
        values = {"hidden_layer": self.size.layer, "reference_tokens": image_tokens}
        return Settings.from_mapping(PRESETS[PRESET] | values | more)

    def sources(self, extractor: Ours | None = None, store: Store | None = None) -> Sources:
        """With an empty store of default size, unless another one is given."""
        return Sources(extractor or self.ours, self.encode, lambda: self.statistics, None, store or Store())
