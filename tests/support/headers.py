"""Files of weights that have a header and nothing else, told apart as the real ones are."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


def norms(width: int, prefix: str = "model.layers.0.", normed: bool = True) -> dict[str, tuple[int, ...]]:
    """What tells a language model of Qwen3's family (or Llama's, without q_norm) and its width."""
    told = {prefix + "input_layernorm.weight": (width,), prefix + "self_attn.q_proj.weight": (8, 8)}
    return told | ({prefix + "self_attn.q_norm.weight": (128,)} if normed else {})


def eyes(width: int, prefix: str = "model.visual.") -> dict[str, tuple[int, ...]]:
    """What tells Qwen3-VL's vision tower and its width."""
    names = ("pos_embed.weight", "deepstack_merger_list.0.norm.weight", "merger.norm.weight")
    return {prefix + name: (8,) for name in names} | {prefix + "merger.linear_fc2.weight": (width, 4)}


QWEN3_VL = eyes(2560) | norms(2560, "model.language_model.layers.0.")
TOWER = eyes(2560, "visual.")
# What lies in the folders that programs share: what is said of it -> tensors as the published files have them.
OTHERS: dict[str, Shapes] = {
    "Qwen3-VL-2B": eyes(2048) | norms(2048, "model.language_model.layers.0."),
    "Qwen3-VL-8B": eyes(4096) | norms(4096, "model.language_model.layers.0."),
    "Qwen3-VL-MoE": eyes(2048)
    | norms(2048, "model.language_model.layers.0.")
    | {"model.language_model.layers.0.mlp.experts.gate_up_proj": (8, 8, 8)},
    "Qwen2.5-VL-7B": norms(3584, normed=False)
    | {"visual.merger.ln_q.weight": (8,), "visual.blocks.0.mlp.gate_proj.weight": (8, 8)},
    "Qwen2-VL-2B": norms(1536, normed=False)
    | {"visual.merger.ln_q.weight": (8,), "visual.blocks.0.mlp.fc1.weight": (8, 8)},
    "Qwen3.5": norms(2560, "model.language_model.layers.3.")
    | {
        "model.language_model.layers.0.linear_attn.in_proj_qkv.weight": (8, 8),
        "model.visual.pos_embed.weight": (8, 8),
        "model.visual.merger.linear_fc2.weight": (2560, 8),
    },
    "Qwen3-4B, text only": norms(2560),
    "Qwen3-0.6B, text only": norms(1024),
    "CLIP text encoder": {"text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768)},
    "CLIP vision model": {"vision_model.encoder.layers.0.self_attn.q_proj.weight": (8, 8)},
    "T5 text encoder": {"encoder.block.0.layer.0.SelfAttention.q.weight": (4096, 4096)},
    "Gemma": norms(2304) | {"model.layers.0.pre_feedforward_layernorm.weight": (2304,)},
    "another language model": norms(4096, normed=False),
    "an image model": {"double_blocks.0.img_attn.qkv.weight": (8, 8)},
    "a VAE": {"decoder.conv_in.weight": (8, 8, 3, 3)},
    "a LoRA": {"diffusion_model.layers.0.attention.qkv.lora_A.weight": (8, 8)},
    "a file of another model": {"something": (1,)},
}


def safetensors(path: Path, shapes: Shapes, dtype: str = "BF16", metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file whose numbers take no room on the disc: a hole behind the header."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        size = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1}[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    data = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + at)
    return path


def gguf(path: Path, fields: Mapping[str, str | int]) -> Path:
    """A GGUF file of no tensors."""
    data = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(fields))
    for name, value in fields.items():
        data += struct.pack("<Q", len(name)) + name.encode()
        if isinstance(value, str):
            data += struct.pack("<IQ", 8, len(value)) + value.encode()
        else:
            data += struct.pack("<II", 4, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folder(path: Path, shapes: Shapes = QWEN3_VL, model_type: str = "qwen3_vl", width: int = 2560) -> Path:
    """A Hugging Face folder: config.json and one file."""
    safetensors(path / "model.safetensors", shapes)
    (path / "config.json").write_text(json.dumps({"model_type": model_type, "text_config": {"hidden_size": width}}))
    return path
