"""The memory and the work of learning, calculated and said before a run. Plain arithmetic.

Few numbers are learned, but the gradients go through all blocks: each keeps what it needs for them, or, with gradient
checkpointing, only what goes into it, and runs again.
"""

from __future__ import annotations

from dataclasses import dataclass

# What a block of diffusers' Z-Image keeps for gradients, counted (`torch.autograd.graph.saved_tensors_hooks`): so many
# numbers for each token and each of its width, and two float32 tables of attention [heads, tokens, tokens], which a
# fused attention does not keep.
KEPT_BY_BLOCK = 27
_ATTENTION = 2 * 4
# Of each number that is learned, float32: itself, its gradient, Adam's two moments and the best one so far, and three
# of them once more while the state is written.
_LEARNED = 8 * 4
_PICTURE, _CAPTION = 16, 32  # pixels along a token of a picture; captions are filled to a multiple
_LATENT = 8  # pixels along one of the autoencoder's


@dataclass(frozen=True)
class Shape:
    """What of an image model decides.

    Attributes:
        parameters: In all.
        blocks: In all, refiners among them.
        heads, width: Of a block.
    """

    parameters: int
    blocks: int
    heads: int
    width: int


@dataclass(frozen=True)
class Learned:
    """What is learned.

    Attributes:
        numbers: How many.
        kept: Bytes that a block keeps for them of each token.
    """

    numbers: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Need:
    """What learning takes.

    Attributes:
        weights, activations, learned: Bytes on the device: of the image model, for gradients, and for what is learned.
        conditionings: Bytes of main memory, of all examples and of what is wanted of those that are kept out.
        operations: Floating-point ones for a picture.
    """

    weights: int
    activations: int
    conditionings: int
    operations: float
    learned: int = 0

    def line(self, batch: int, device: str) -> str:
        """For a person, with a batch of so many pictures."""
        gib = 2**30
        learned = f", {self.learned / gib:.2f} what is learned" if self.learned else ""
        return (
            f"Calculated: {(self.weights + self.activations + self.learned) / gib:.2f} GiB on {device} "
            f"({self.weights / gib:.2f} the image model, {self.activations / gib:.2f} for gradients{learned}), "
            f"{self.conditionings / gib:.2f} GiB of main memory for the examples, "
            f"{self.operations * batch / 1e12:.3g} TFLOP a step."
        )


def tokens_of(side: int, rows: int) -> int:
    """How many tokens a block of the image model has for a square picture and a conditioning of so many rows."""
    picture = (side // _PICTURE) ** 2
    return sum(-(-part // _CAPTION) * _CAPTION for part in (picture, rows))


def latents_bytes(channels: int, side: int) -> int:
    """Of a square picture's latents, float32."""
    return 4 * channels * (side // _LATENT) ** 2


def needed(
    shape: Shape,
    itemsize: int,
    tokens: int,
    at_once: int,
    recompute: bool,
    examples: int,
    row_bytes: int,
    learned: Learned = Learned(),
    wanted: int = 0,
) -> Need:
    """What learning takes.

    Args:
        itemsize: Bytes of a number of the image model.
        tokens: Of a block's sequence.
        at_once: Pictures that go through it together.
        recompute: Whether blocks run again for their gradients.
        examples: How many are held, with their conditionings.
        row_bytes: Of one conditioning. An example has it with the reference and without, and its whole caption.
        learned: What is learned, where that is more than a number for each head.
        wanted: Bytes of what is wanted of the examples that are kept out.
    """
    between = at_once * tokens * shape.width * itemsize
    block = KEPT_BY_BLOCK * between + _ATTENTION * at_once * shape.heads * tokens**2 + at_once * tokens * learned.kept
    activations = shape.blocks * between + block if recompute else shape.blocks * block
    # Two operations for a weight and a token: once forward with the whole caption, once with the reference, once for
    # the gradients, once more to run again.
    work = 2.0 * (shape.parameters + learned.numbers) * tokens * (4 if recompute else 3)
    held = 3 * examples * row_bytes + wanted
    return Need(shape.parameters * itemsize, activations, held, work, _LEARNED * learned.numbers)
