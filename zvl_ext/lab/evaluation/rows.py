"""One measurement as data: a way of making a picture from pairs of a prompt and a reference, and those pairs."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...declaration import LEARNED
from ..miniature.learned import learned
from ..miniature.world import JUDGED, Scene, caption, contradicting, random_scene


@dataclass(frozen=True)
class Pair:
    """A prompt and a reference that disagree.

    Attributes:
        wanted: The scene that the prompts are about.
        shown: The scene that the reference shows: another shape, colour, background and style.
        prompt: A caption of `wanted` with all four attributes.
        half: A caption of `wanted` with only two of them.
        said: Those two.
        drawing: The seed of the reference's drawing.
    """

    wanted: Scene
    shown: Scene
    prompt: str
    half: str
    said: frozenset[str]
    drawing: int

    def naming(self, attributes: frozenset[str]) -> str:
        """A caption of `wanted` with these attributes alone; the same every time."""
        return caption(self.wanted, np.random.default_rng((self.drawing, len(attributes))), attributes)


@functools.lru_cache(maxsize=8)
def pairs(count: int, seed: int = 2026) -> tuple[Pair, ...]:
    """The first `count` of one fixed row of pairs; every scene is of a combination that training never showed."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        wanted = random_scene(rng, held_out=True)
        shown = contradicting(wanted, rng, held_out=True)
        said = frozenset(rng.choice(JUDGED, 2, replace=False).tolist())
        made.append(
            Pair(
                wanted, shown, caption(wanted, rng, frozenset(JUDGED)), caption(wanted, rng, said), said, 10**6 + number
            )
        )
    return tuple(made)


# What prompts speak of that leave the rest to the reference: what things are, or how they look.
NAMED: dict[str, frozenset[str]] = {
    "shape": frozenset({"shape"}),
    "look": frozenset({"colour", "background", "style"}),
}


@dataclass(frozen=True)
class Row:
    """One measurement: a way of making a picture from a pair, over a number of pairs.

    Attributes:
        part: The table it belongs to.
        name: What the table calls it.
        how: `settings` (this product's, with `values`; CAPTION in the text for Qwen3-VL is the reference's caption),
            `swap` (the same twice, with the pair's reference and with the next pair's), `tower` (the vision tower's
            tokens as they are, with `values`), `prompt`, `caption` (the prompt with Qwen3-VL's caption of the reference
            behind it; `values` says how it is written), `img2img` (`values` has the strength, and `settings` where the
            reference is also the conditioning), `adapter` (`values` has the scale), `real` (a drawing of the prompt's
            scene), `autoencoder` (such a drawing through the autoencoder); or, of no picture, `captions` and
            `statistics`.
        values: Settings as named values, or the way's own number.
        pairs: How many pairs, from the first.
        half: Whether the prompt speaks of two attributes only.
        names: A key of NAMED, where the prompt speaks of these attributes only.
        seeds: Pictures of each pair; their diversity is measured where there are more than one.
        change: A key of ROW_CHANGES, where something is done to the reference's rows first.
        first: The number of its first pair.
        lora: The name of a LoRA of the miniature's that acts.
    """

    part: str
    name: str
    how: str
    values: dict[str, Any] = field(default_factory=dict)
    pairs: int = 0
    half: bool = False
    seeds: int = 1
    names: str = ""
    change: str = ""
    first: int = 0
    lora: str = ""

    @property
    def learned(self) -> dict[str, str]:
        """What acts of the miniature's learned numbers, by kind: the name."""
        named = {kind: self.values.get(kind, "") for kind in LEARNED} | {"lora": self.lora}
        return {kind: name for kind, name in named.items() if name}

    @property
    def numbers(self) -> range:
        """Its pairs'."""
        return range(self.first, self.first + self.pairs)

    @property
    def pictures(self) -> int:
        """How many are made for it."""
        return self.pairs * self.seeds

    def drawn(self) -> tuple[Pair, ...]:
        """Its pairs."""
        return pairs(self.first + self.pairs)[self.first :]

    def said(self, pair: Pair) -> frozenset[str]:
        """The attributes that a pair's prompt speaks of."""
        return NAMED[self.names] if self.names else pair.said if self.half else frozenset(JUDGED)

    def prompt(self, pair: Pair) -> str:
        """What is asked for with a pair."""
        return pair.naming(NAMED[self.names]) if self.names else pair.half if self.half else pair.prompt

    @property
    def key(self) -> str:
        """Identifies the measurement, whatever table it is in."""
        what = {key: value for key, value in dataclasses.asdict(self).items() if key not in ("part", "name")}
        for later in ("names", "change", "first", "lora"):
            if not what[later]:
                del what[later]
        for kind, name in self.learned.items():
            what[kind] = learned(kind, name).digest
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def alpha(self) -> float:
        """How strongly the reference acts: alpha, the adapter's scale or img2img's 1 - strength."""
        if self.how == "img2img":
            return 1 - self.values["strength"]
        return self.values.get("alpha", self.values.get("scale", 0.0))
