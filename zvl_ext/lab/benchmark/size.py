"""How large the models are that are measured.

Their weights are random: time and memory do not depend on what they say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """One size of the models, and what is read with them.

    Attributes:
        name: For file names and the command line.
        title: What the table says.
        text: Qwen3-VL's `text_config` without its rotary settings.
        vision: Its `vision_config`.
        transformer: Arguments of diffusers' ZImageTransformer2DModel.
        layer: The hidden layer of one extraction.
        layers: Those of a grid, in falling order.
        references: Image tokens of the smaller and of the larger reference, square numbers.
        text_tokens: Tokens of a prompt with its template.
        latents: Side of the picture that is sampled, in latent pixels.
    """

    name: str
    title: str
    text: dict[str, Any]
    vision: dict[str, Any]
    transformer: dict[str, Any]
    layer: int = -8
    layers: tuple[int, ...] = (-2, -4, -8, -12, -16, -18)
    references: tuple[int, int] = (256, 1024)
    text_tokens: int = 46
    latents: int = 128

    @property
    def special(self) -> int:
        """The first id of the special tokens, which stand at the vocabulary's end as Qwen3's do (151644 of 151936)."""
        return self.text["vocab_size"] - 292

    @property
    def config(self) -> dict[str, Any]:
        """Qwen3-VL's config.json, for transformers 4 and 5."""
        half = self.text["head_dim"] // 2
        side = half * 20 // 64
        rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [half - 2 * side, side, side]}
        text = {
            "rms_norm_eps": 1e-6,
            "rope_theta": 5e6,
            "rope_scaling": rope,
            "rope_parameters": {**rope, "rope_theta": 5e6},
        }
        vision = {
            "in_channels": 3,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
        }
        return {
            "model_type": "qwen3_vl",
            "text_config": {**text, "max_position_embeddings": 262144, **self.text},
            "vision_config": {**vision, **self.vision, "out_hidden_size": self.text["hidden_size"]},
            "vision_start_token_id": self.special + 8,
            "vision_end_token_id": self.special + 9,
            "image_token_id": self.special + 11,
            "video_token_id": self.special + 12,
            "tie_word_embeddings": True,
        }


def side(image_tokens: int) -> int:
    """Width and height in pixels of a square reference."""
    return 32 * math.isqrt(image_tokens)


_TEXT = {"vocab_size": 151936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "deepstack_visual_indexes": [5, 11, 17],
}
# Of the image model a few of its 30 main layers are enough to see what a token costs. As many refiners as main layers
# keep the share of what the prompt's tokens take.
_TRANSFORMER = {
    "dim": 3840,
    "n_heads": 30,
    "n_kv_heads": 30,
    "n_layers": 2,
    "n_refiner_layers": 2,
    "axes_dims": [32, 48, 48],
}

FULL = Size(
    "full",
    "Qwen3-VL-4B's and Z-Image-Turbo's real sizes",
    _TEXT | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
    _VISION,
    _TRANSFORMER | {"cap_feat_dim": 2560},
)
# Qwen3-VL with the same depths and a quarter of every width: the parts keep their shares of the whole.
SMALL = Size(
    "small",
    "a quarter of Qwen3-VL-4B's widths, a tenth of Z-Image-Turbo's",
    _TEXT
    | {
        "vocab_size": 37984,
        "hidden_size": 640,
        "intermediate_size": 2432,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
    },
    _VISION | {"hidden_size": 256, "intermediate_size": 1024, "num_heads": 4},
    _TRANSFORMER
    | {"dim": 384, "n_heads": 3, "n_kv_heads": 3, "n_layers": 1, "n_refiner_layers": 1, "cap_feat_dim": 640},
)
