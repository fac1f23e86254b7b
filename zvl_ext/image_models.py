"""The image models that are known, each in one description: what their prompts look like, and where they read their
text encoder. Everything else is found in the web UI that runs them (`hosts/forge.py`, `hosts/forge_blocks.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ZvlError
from .sequence import Z_IMAGES, Template

if TYPE_CHECKING:
    import torch

READS = -2  # what option hidden_layer says for "where the image model reads": Z-Image's own place


@dataclass(frozen=True)
class ImageModel:
    """One image model whose text encoder is a Qwen3.

    Attributes:
        template: What stands around a prompt.
        layers: After which layers of its text encoder it reads: so many from the first, or, negative, as transformers
            counts `hidden_states` from the end. The states of several stand side by side in each row.
        block_behind: Where a reference's block moves no row of the prompt against the picture, so that a small weight
            comes close to the picture without a reference: behind the prompt, because that is counted from its first
            row; otherwise before it, because the picture is counted from its last.
        edits: Whether its engine takes note of pictures (those that it is to change) whenever it reads a prompt.
    """

    template: Template
    layers: tuple[int, ...]
    block_behind: bool = False
    edits: bool = False

    @property
    def name(self) -> str:
        return self.template.owner

    def hidden(self, width: int) -> int:
        """How wide a state is, given how wide the rows are that the image model takes."""
        return width // len(self.layers)

    def read_at(self, layer: int, layers: int) -> tuple[int, ...]:
        """Which layers are read, from the end, where the settings say `layer`: all of them so many deeper or shallower.

        Args:
            layers: How many the model has that reads.
        """
        own = (at if at < 0 else at - layers - 1 for at in self.layers)
        return tuple(at + layer - READS for at in own)

    def check_layer(self, layer: int, layers: int, owner: str) -> None:
        """Raise ZvlError unless a model with that many layers, called `owner`, has all that is read at this one."""
        at = self.read_at(READS, layers)
        first, last = READS - min(at) - layers, min(READS - max(at) - 1, -1)
        if first <= layer <= last:
            return
        if first > last:
            raise ZvlError(
                f"{self.name} reads its text encoder after layer {max(self.layers)}, and {owner} has {layers}."
            )
        more = "" if len(at) == 1 else f" with {self.name}, which reads {len(at)} at once"
        raise ZvlError(f"Hidden layer {layer} does not exist: {owner} has layers {last} to {first}{more}.")

    def joined(self, states: Mapping[int, torch.Tensor], named: Iterable[int], layers: int) -> dict[int, torch.Tensor]:
        """What the image model takes, [tokens, its width], by the layer that the settings name.

        Args:
            states: By the layer they were read at, each [tokens, hidden].
            layers: As for `read_at`.
        """
        if len(self.layers) == 1:
            return {layer: states[at] for layer in named for at in self.read_at(layer, layers)}
        import torch

        return {layer: torch.cat([states[at] for at in self.read_at(layer, layers)], dim=-1) for layer in named}


Z_IMAGE = ImageModel(Z_IMAGES, layers=(-2,))
# Read in Forge Neo's klein_engine.py. Its text rows are counted on an axis of their own, on which the picture has 0.
KLEIN = ImageModel(
    Template(
        "Flux.2 Klein",
        tail="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        filler="<|endoftext|>",
        rows=512,
    ),
    layers=(9, 18, 27),
    block_behind=True,
    edits=True,
)
IMAGE_MODELS = (Z_IMAGE, KLEIN)
NAMES = " or ".join(model.name for model in IMAGE_MODELS)
