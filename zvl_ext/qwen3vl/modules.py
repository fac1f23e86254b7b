"""transformers' modules as far as they are used here, said as types: nothing is ever made of these classes.

transformers builds its modules at run time, and torch knows the parts of a module by name only. Whoever reads
`model.language_model.layers` finds here what that is.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Layered(Protocol):
    """A language model as a stack of layers, in whatever library."""

    layers: torch.nn.ModuleList


class TextModel(torch.nn.Module):
    """Qwen3-VL's language model, and Qwen3 as Z-Image's text encoder; called, it gives `last_hidden_state`."""

    config: TextConfig
    embed_tokens: torch.nn.Embedding
    layers: torch.nn.ModuleList
    norm: torch.nn.RMSNorm


class TextConfig(Protocol):
    """The text encoder's configuration."""

    head_dim: int
    rope_parameters: dict[str, Any]  # of transformers 5; transformers 4 has rope_theta


class VisionConfig(Protocol):
    """The vision tower's configuration, all in pixels or frames."""

    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int


class PatchEmbedding(torch.nn.Module):
    """The vision tower's first layer."""

    proj: torch.nn.Conv3d


class VisionTower(torch.nn.Module):
    """`Qwen3VLVisionModel`: patches in, image tokens and DeepStack's additions out."""

    config: VisionConfig
    patch_embed: PatchEmbedding


class VLModel(torch.nn.Module):
    """`Qwen3VLModel`: both."""

    language_model: TextModel
    visual: VisionTower
    rope_deltas: torch.Tensor | None  # of what was written last
    lm_head: torch.nn.Module  # put in here where a text is to be written
