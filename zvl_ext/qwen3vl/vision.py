"""Qwen3-VL's vision tower: a picture in, image tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from .linear import float32_memory
from .loading import build, transformers_classes

if TYPE_CHECKING:
    from PIL import Image

    from .checkpoint import Checkpoint
    from .modules import VisionTower

MEAN = STD = 0.5  # Qwen3-VL's image mean and standard deviation, the same for all channels


def patches(
    image: Image.Image, patch: int = 16, merge: int = 2, temporal: int = 2
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Cut a picture into the vision tower's input, in the order its merger expects.

    Args:
        image: RGB, both sides multiples of patch × merge.

    Returns:
        float32 [rows · columns, 3 · temporal · patch²] and (rows, columns) counted in patches. Patches that are merged
        into one image token follow each other; a still picture is repeated `temporal` times.
    """
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255.0
    pixels = (pixels - MEAN) / STD
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    cells = pixels.reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
    cells = cells.permute(1, 4, 2, 5, 0, 3, 6)  # merged row, merged column, row in it, column in it, channel, y, x
    cells = cells.reshape(rows * columns, 3, 1, patch, patch).expand(-1, -1, temporal, -1, -1)
    return cells.reshape(rows * columns, 3 * temporal * patch * patch), (rows, columns)


def image_tokens(tower: VisionTower, image: Image.Image) -> tuple[torch.Tensor, list[torch.Tensor], tuple[int, int]]:
    """Run the vision tower (transformers' Qwen3VLVisionModel) over one sized picture.

    Returns:
        Image tokens [N, hidden], the DeepStack additions as a list of [N, hidden], and the merged grid (rows, columns).
    """
    config = tower.config
    weight = tower.patch_embed.proj.weight
    values, (rows, columns) = patches(image, config.patch_size, config.spatial_merge_size, config.temporal_patch_size)
    with float32_memory():
        output = tower(
            values.to(weight.device, weight.dtype), grid_thw=torch.tensor([[1, rows, columns]], device=weight.device)
        )
    # transformers 4 returns (tokens, deepstack), transformers 5 an object.
    tokens, deepstack = output if isinstance(output, tuple) else (output.pooler_output, output.deepstack_features)
    merge = config.spatial_merge_size
    return tokens, list(deepstack), (rows // merge, columns // merge)


@torch.inference_mode()
def stacked_tokens(tower: VisionTower, image: Image.Image) -> torch.Tensor:
    """Image tokens and DeepStack additions as one tensor, float32 [1 + additions, N, hidden] on the CPU."""
    tokens, deepstack, _ = image_tokens(tower, image)
    return torch.stack([tokens, *deepstack]).float().cpu()


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> VisionTower:
    """Load the vision tower and its mergers alone: 0.415 of Qwen3-VL-4B's 4.44 billion parameters are read.

    Raises:
        ZvlError: as `language.load`.
    """
    _, tower_class, _ = transformers_classes()
    return build(tower_class, checkpoint, dtype, "visual.", "vision_config")
