"""Which numbers of a tensor share one number of its scale: told by the two shapes."""

from __future__ import annotations

import math

Shape = tuple[int, ...]
Block = tuple[int, int]  # rows and columns


def block_of(shape: Shape, scale: Shape, size: int = 0) -> Block | None:
    """Rows and columns that share one number of a scale, None for a scale that does not fit.

    Known are a scale for the whole tensor (any shape of one number), one for each row ([rows], [rows, 1], [rows, 1,
    1]), and one for each block of a matrix, [rows / r, columns / c], also with a last axis of 1 ([rows, blocks, 1], as
    musubi-tuner has it). Where the file does not say how large blocks are, they are squares that divide the matrix; or
    else squares of a power of two whose last ones are cut off (Qwen's own files: 128); or else parts of equal size.

    Args:
        shape: Of the tensor.
        scale: Of its scale.
        size: Side of a block, where the file says.
    """
    if not math.prod(shape):
        return None
    if math.prod(scale) == 1:
        return shape[0] if shape else 1, math.prod(shape[1:])
    if not shape:
        return None
    if scale[0] == shape[0] == math.prod(scale):
        return 1, math.prod(shape[1:])
    if len(scale) == 3 and scale[2] == 1:
        scale = scale[:2]
    if len(shape) != 2 or len(scale) != 2 or not all(1 <= n <= side for n, side in zip(scale, shape)):
        return None
    if size > 0 and scale == tuple(-(-side // size) for side in shape):
        return size, size
    even = tuple(side // n if side % n == 0 else 0 for side, n in zip(shape, scale))
    if all(even) and even[0] == even[1]:
        return even[0], even[1]
    # An axis of n blocks: they are of at least side / n, and of less than side / (n - 1).
    least = max(-(-side // n) for side, n in zip(shape, scale))
    square: int = 1 << (least - 1).bit_length()
    if all(-(-side // square) == n for side, n in zip(shape, scale)):
        return square, square
    return (even[0], even[1]) if all(even) else None
