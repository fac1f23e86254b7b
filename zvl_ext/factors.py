"""What each of the image model's blocks multiplies the weights of its references with, for every host alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from .weighting import Weighting


class Factors(NamedTuple):
    """Of each block float [batch, references], or [batch, references, heads] where its heads differ.

    Attributes:
        refiner: Of the blocks that refine the caption.
        main: Of the main blocks.
    """

    refiner: list[torch.Tensor]
    main: list[torch.Tensor]


def factors_of(weightings: Sequence[Sequence[Weighting]], blocks: int, refiners: int) -> Factors:
    """The factors of a batch.

    What refines the caption serves all blocks, so it has the largest of their factors; its heads have their own
    weights in a profile.

    Args:
        weightings: Of each conditioning of the batch, those of its references. A profile fits the image model
            (`Profile.check`).
        blocks, refiners: How many the image model has.
    """
    profiles = [each.profile for of_one in weightings for each in of_one if each.profile is not None]
    heads, references = max((profile.heads for profile in profiles), default=1), max(map(len, weightings))
    main = torch.ones(blocks, len(weightings), references, heads)
    refiner = torch.ones(refiners, len(weightings), references, heads)
    for i, of_one in enumerate(weightings):
        for j, each in enumerate(of_one):
            own = torch.tensor(each.factors(blocks))
            main[:, i, j], refiner[:, i, j] = own[:, None], own.max()
            if each.profile is not None:
                main[:, i, j] *= torch.tensor(each.profile.main).exp()
                refiner[:, i, j] *= torch.tensor(each.profile.refiner).reshape(refiners, heads).exp()
    return Factors([*map(_narrow, refiner)], [*map(_narrow, main)])


def _narrow(of_block: torch.Tensor) -> torch.Tensor:
    """Without the heads where they are alike: so a profile of zeros is the same as none, to the last bit."""
    first = of_block[..., :1]
    return first[..., 0] if bool((of_block == first).all()) else of_block
