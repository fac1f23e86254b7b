"""Examples as the image model learns from them: latents of pictures, and conditionings of prompts with references."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from ..conditioning import Conditioning, fitted
from ..reference import reference_of
from .views import view

if TYPE_CHECKING:
    from PIL import Image

    from ..hosts.standalone import ZImage
    from ..options import Settings
    from .album import Picture
    from .recipes import Example

_MULTIPLE = 16  # pixels: a patch of the image model is two latents wide, a latent eight pixels
_MARKED = 0.5  # a weight with which rows are marked; with 1 there would be nothing to weigh
Bar = Callable[[Sequence[Any], str], Iterable[Any]]  # shows how far it is with what


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is learned from, on the CPU.

    Attributes:
        examples: In their order.
        latents: Of pictures by their number, float32 [channels, height, width].
        captions: Text embeddings of their whole captions, likewise, [tokens, hidden].
        conditionings: Of the examples.
    """

    examples: list[Example]
    latents: dict[int, torch.Tensor]
    captions: dict[int, torch.Tensor]
    conditionings: list[Conditioning]

    def __len__(self) -> int:
        return len(self.examples)

    def first(self, most: int) -> Prepared:
        """The first examples alone."""
        return Prepared(self.examples[:most], self.latents, self.captions, self.conditionings[:most])

    def weighted(self, number: int, weight: float | None) -> Conditioning:
        """An example's conditioning with another weight; None: with its own."""
        made = self.conditionings[number]
        return made if weight is None else of_weight(made, weight)

    def targets(self, numbers: Iterable[int]) -> torch.Tensor:
        """The latents of some examples' pictures [batch, channels, height, width]."""
        return torch.stack([self.latents[self.examples[number].picture] for number in numbers])


def of_weight(made: Conditioning, weight: float) -> Conditioning:
    """The same with another weight of its references, marked as it is."""
    parts = (replace(part, weighting=replace(part.weighting, weight=weight)) for part in made.parts)
    return replace(made, parts=tuple(parts))


def side_of(pictures: list[Picture], most: int) -> int:
    """The side in pixels that pictures are learned at: that of the smallest, at most `most`."""
    least = min(min(picture.reference.image.size) for picture in pictures)
    return max(_MULTIPLE, min(least, most) // _MULTIPLE * _MULTIPLE)


def squared(picture: Image.Image, side: int) -> Image.Image:
    """The middle of a picture, side × side pixels."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)


@torch.no_grad()
def latents_of(vae: Any, picture: Image.Image) -> torch.Tensor:
    """A picture's latents as the image model makes them, float32 [channels, height, width] on the CPU."""
    import numpy as np

    pixels = torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mode().float()
    made: torch.Tensor = ((latents - vae.config.shift_factor) * vae.config.scaling_factor)[0].cpu()
    return made


def prepare(
    model: ZImage, pictures: list[Picture], examples: list[Example], settings: Settings, side: int, bar: Bar
) -> Prepared:
    """Read every example once.

    Args:
        settings: How references are read and mixed.
        bar: Shows how far it is.
    """
    kept = torch.zeros((), dtype=model.dtype)
    knob, marked = settings.weight, replace(settings, weight=_MARKED)
    latents: dict[int, torch.Tensor] = {}
    captions: dict[int, torch.Tensor] = {}
    conditionings = []
    for each in bar(examples, "reading"):
        if each.picture not in latents:
            own = pictures[each.picture]
            latents[each.picture] = latents_of(model.pipeline.vae, squared(own.reference.image, side))
            captions[each.picture] = model.text(own.caption).embeddings.to(kept.device, kept.dtype)
        seen = reference_of(view(pictures[each.reference].reference.image, each.view), "")
        made = fitted(model.condition(marked, seen, each.prompt), kept)
        conditionings.append(_bare(of_weight(made, knob)))
    return Prepared(examples, latents, captions, conditionings)


def _bare(made: Conditioning) -> Conditioning:
    """Without what only mixing several references needs."""
    return replace(made, parts=tuple(replace(part, block=None, counts=None) for part in made.parts))
