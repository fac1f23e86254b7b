"""Qwen3-VL's configuration: as a file's metadata or the shapes of its tensors tell it, in the words of transformers 4
and 5."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

from ..errors import ZvlError

# Depths of the vision tower in published models whose DeepStack layers do not follow from evenly spaced thirds.
_DEEPSTACK = {27: (8, 16, 24)}
_VISION_HEADS = 16  # of every published Qwen3-VL; the shapes do not tell


def from_metadata(metadata: dict[str, str], name: str) -> dict[str, Any] | None:
    """A `config` entry in the file's metadata (JSON of a config.json) goes before what the shapes tell."""
    if "config" not in metadata:
        return None
    with contextlib.suppress(ValueError):
        config = json.loads(metadata["config"])
        if (
            isinstance(config, dict)
            and isinstance(config.get("text_config"), dict)
            and isinstance(config.get("vision_config"), dict)
        ):
            return config
    return None


def config_from_shapes(shapes: dict[str, tuple[int, ...]], name: str = "the file") -> dict[str, Any]:
    """Qwen3-VL's configuration from the shapes of its tensors (names as in Qwen3VLModel).

    What shapes do not tell is what all published Qwen3-VL have in common: 16 vision heads, merge 2, rope theta 5e6 and
    interleaved MRoPE in the proportion 24 : 20 : 20.

    Raises:
        ZvlError: a tensor that is needed is missing.
    """

    def shape(key: str) -> tuple[int, ...]:
        if key not in shapes:
            raise ZvlError(f"{name}: the tensor {key} is missing. Download the file again.")
        return shapes[key]

    def count(pattern: str) -> int:
        return 1 + max((int(m[1]) for key in shapes if (m := re.match(pattern, key))), default=-1)

    layer, block = "language_model.layers.0.", "visual.blocks.0."
    vocab, hidden = shape("language_model.embed_tokens.weight")
    head_dim = shape(layer + "self_attn.q_norm.weight")[0]
    half = head_dim // 2
    side = half * 20 // 64
    vision_hidden, channels, temporal, patch, _ = shape("visual.patch_embed.proj.weight")
    depth = count(r"visual\.blocks\.(\d+)\.")
    deepstack = count(r"visual\.deepstack_merger_list\.(\d+)\.")
    step = depth // (deepstack + 1)
    merged = shape("visual.merger.linear_fc1.weight")[1]
    return {
        "model_type": "qwen3_vl",
        "text_config": {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": shape(layer + "mlp.gate_proj.weight")[0],
            "num_hidden_layers": count(r"language_model\.layers\.(\d+)\."),
            "num_attention_heads": shape(layer + "self_attn.q_proj.weight")[0] // head_dim,
            "num_key_value_heads": shape(layer + "self_attn.k_proj.weight")[0] // head_dim,
            "head_dim": head_dim,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "rope_scaling": {
                "rope_type": "default",
                "mrope_interleaved": True,
                "mrope_section": [half - 2 * side, side, side],
            },
            "max_position_embeddings": 262144,
        },
        "vision_config": {
            "depth": depth,
            "hidden_size": vision_hidden,
            "intermediate_size": shape(block + "mlp.linear_fc1.weight")[0],
            "num_heads": _VISION_HEADS,
            "in_channels": channels,
            "patch_size": patch,
            "temporal_patch_size": temporal,
            "spatial_merge_size": round((merged / vision_hidden) ** 0.5),
            "out_hidden_size": shape("visual.merger.linear_fc2.weight")[0],
            "num_position_embeddings": shape("visual.pos_embed.weight")[0],
            "deepstack_visual_indexes": list(
                _DEEPSTACK.get(depth, tuple(step * (i + 1) - 1 for i in range(deepstack)))[:deepstack]
            ),
        },
    }


def complete(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Give the text configuration its rotary settings in the words of transformers 4 and of transformers 5.

    Version 5 writes `rope_parameters`, which version 4 ignores; version 4 writes `rope_theta` and `rope_scaling`.
    """
    try:
        text, vision = dict(config["text_config"]), dict(config["vision_config"])
        rope = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
        theta = rope.pop("rope_theta", None) or text.get("rope_theta") or 5e6
        rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]} | rope
        rope.pop("type", None)
        int(text["hidden_size"]), int(text["num_hidden_layers"]), int(vision["depth"])
    except (KeyError, TypeError, ValueError) as error:
        raise ZvlError(f"{name}: config.json has no usable {error}. Download the folder again.") from error
    text["rope_theta"], text["rope_scaling"] = theta, rope
    text["rope_parameters"] = {**rope, "rope_theta": theta}
    return {**config, "text_config": text, "vision_config": vision}
