"""Which model weights are: told by the names and shapes of their tensors, or by a configuration's `model_type`.

For the list of models, which offers what fits and nothing else, and for what is said of a file that does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..outside import plain

Shapes = Mapping[str, tuple[int, ...]]
WANTED_KIND = "Qwen3-VL-4B"


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        name: With its article, as the end of "it is …".
        eyes: It has Qwen3-VL's vision tower.
        language: It has a language model.
        width: Of its hidden states; 0 where that is not known.
        eyes_apart: It is Qwen3-VL's language model, whose vision tower is another file.
    """

    name: str
    eyes: bool = False
    language: bool = False
    width: int = 0
    eyes_apart: bool = False

    @property
    def fits(self) -> bool:
        """Its hidden states can stand beside an image model's: a Qwen3-VL's with eyes, of no other published size."""
        return self.eyes and _SIZES["Qwen3-VL"].get(self.width, "4B") == "4B"

    @property
    def projectable(self) -> bool:
        """It is a whole Qwen3-VL of another size: with a projection engine blend can read with it."""
        return self.eyes and self.language and not self.fits


# Width of the hidden states -> size, of what is published under each name.
_SIZES = {
    "Qwen3-VL": {2048: "2B", 2560: "4B", 4096: "8B", 5120: "32B"},
    "Qwen2.5-VL": {2048: "3B", 3584: "7B", 5120: "32B", 8192: "72B"},
    "Qwen2-VL": {1536: "2B", 3584: "7B", 8192: "72B"},
    "Qwen3": {1024: "0.6B", 2048: "1.7B", 2560: "4B", 4096: "8B", 5120: "14B or 32B"},
}
# A configuration's `model_type` -> name.
_TYPES = {
    "qwen3_vl": "Qwen3-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5-MoE",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "qwen3_vl_text": "Qwen3-VL without its vision tower",
    "qwen3": "Qwen3",
}
_TEXT_ONLY = "Qwen3"


def of_config(config: object) -> Kind | None:
    """The kind that a config.json tells; None where it tells none."""
    if not isinstance(config, dict):
        return None
    kind = config.get("model_type") or config.get("_class_name")
    if not isinstance(kind, str):
        return None
    text = config.get("text_config")
    width = (text if isinstance(text, dict) else config).get("hidden_size")
    width = width if type(width) is int else 0
    name = _TYPES.get(kind)
    if name is None:
        return Kind(f"a {plain(kind)}")
    return _named(name, width, eyes=kind == "qwen3_vl")


def of_fields(fields: Mapping[str, Any]) -> Kind:
    """The kind that a GGUF's fields tell: of a whole language model, or of a vision tower (`mmproj`)."""
    kind = fields.get("general.architecture")
    if kind == "clip":
        projector = fields.get("clip.vision.projector_type") or fields.get("clip.projector_type")
        width = fields.get("clip.vision.projection_dim")
        if projector == "qwen3vl_merger":
            width = width if type(width) is int else 0
            return Kind(f"the vision tower of {_sized('Qwen3-VL', width)}", eyes=True, width=width)
        return Kind(f"the vision tower of another model ({plain(projector)})")
    width = fields.get(f"{kind}.embedding_length")
    width = width if type(width) is int else 0
    if kind == "qwen3vl":
        return Kind(
            f"the language model of {_sized('Qwen3-VL', width)} alone", language=True, width=width, eyes_apart=True
        )
    if kind == "qwen3":
        return _named(_TEXT_ONLY, width)
    return Kind(f"a GGUF of {plain(kind)}" if kind else "a GGUF of another model")


# What tells a kind: texts of which one stands in the names of its tensors, all in lines of their own. The first kind
# that is found counts, so what stands in all-in-one files beside an image model comes before it.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA", (".lora_", ".lokr_", ".hada_", "\nlora_")),
    ("Qwen3-VL", ("visual.deepstack_merger_list.",)),
    ("Qwen2.5-VL", ("visual.merger.ln_q.",)),
    ("Qwen3.5", (".linear_attn.",)),
    ("Qwen3-VL", ("visual.pos_embed.",)),
    (
        "an image model",
        (
            "diffusion_model.",
            "double_blocks.",
            "joint_blocks.",
            "transformer_blocks.",
            "input_blocks.",
            "cap_embedder.",
        ),
    ),
    ("a T5 text encoder", (".SelfAttention.",)),
    ("a CLIP text encoder", ("text_model.", "resblocks.", "text_projection")),
    ("a CLIP vision model", ("vision_model.",)),
    ("a Gemma text encoder", (".pre_feedforward_layernorm.",)),
    ("Qwen3", (".self_attn.q_norm.",)),
    ("a Qwen2 or Qwen2.5, text only", (".self_attn.q_proj.bias",)),
    ("another language model", (".self_attn.q_proj.", ".attn_q.")),
    ("a VAE", ("coder.conv_in.", "coder.conv1.", "coder.mid")),
)
_EXPERTS = (".mlp.experts.", ".mlp.gate.weight\n")
_GATED_EYES = "visual.blocks.0.mlp.gate_proj."
# Endings of tensors whose rows or columns are the width of the hidden states.
_MERGED, _EMBEDDING, _NORM = "visual.merger.linear_fc2.weight", "embed_tokens.weight", "input_layernorm.weight"


def of_tensors(shapes: Shapes) -> Kind:
    """The kind that tensors tell, whatever stands before their names."""
    names = "\n".join(("", *shapes, ""))
    name = next((name for name, signs in _SIGNS if any(sign in names for sign in signs)), "a file of another model")
    language = _ending(shapes, _NORM)
    merged = _ending(shapes, _MERGED)
    width = (merged or language or (0,))[0]
    if name == "Qwen3-VL" and any(sign in names for sign in _EXPERTS):
        return Kind("a Qwen3-VL-MoE")
    if name == "Qwen3-VL":
        if not language:
            return Kind(f"the vision tower of {_sized(name, width)}", eyes=True, width=width)
        return Kind(f"a {_sized(name, width)}", eyes=True, language=True, width=width)
    if name == "Qwen2.5-VL" and _GATED_EYES not in names:
        name = "Qwen2-VL"
    return _named(name, (language or (0,))[0]) if name[0].isupper() else Kind(name)


def _named(name: str, width: int, eyes: bool = False) -> Kind:
    text_only = ", text only: it has no vision tower" if name == _TEXT_ONLY else ""
    return Kind(f"a {_sized(name, width)}{text_only}", eyes=eyes, language=True, width=width)


def _sized(name: str, width: int) -> str:
    sizes = _SIZES.get(name, {})
    if width in sizes:
        return f"{name}-{sizes[width]}"
    return f"{name} of another size ({width} wide)" if width and sizes else name


def _ending(shapes: Shapes, ending: str) -> tuple[int, ...]:
    """The shape of the first tensor whose name ends so, where it has one."""
    return next((shape for name, shape in shapes.items() if name.endswith(ending) and shape), ())
