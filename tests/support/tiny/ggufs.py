"""Weights as GGUF files, the way llama.cpp's converter writes a Qwen3-VL: names, shapes and header entries."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from transformers import Qwen3VLConfig

LANGUAGE = {
    "embed_tokens.": "token_embd.",
    "norm.": "output_norm.",
    "input_layernorm.": "attn_norm.",
    "post_attention_layernorm.": "ffn_norm.",
    "self_attn.q_proj.": "attn_q.",
    "self_attn.k_proj.": "attn_k.",
    "self_attn.v_proj.": "attn_v.",
    "self_attn.o_proj.": "attn_output.",
    "self_attn.q_norm.": "attn_q_norm.",
    "self_attn.k_norm.": "attn_k_norm.",
    "mlp.gate_proj.": "ffn_gate.",
    "mlp.up_proj.": "ffn_up.",
    "mlp.down_proj.": "ffn_down.",
}
VISION = {
    "pos_embed.": "v.position_embd.",
    "merger.norm.": "v.post_ln.",
    "merger.linear_fc1.": "mm.0.",
    "merger.linear_fc2.": "mm.2.",
    "norm1.": "ln1.",
    "norm2.": "ln2.",
    "attn.qkv.": "attn_qkv.",
    "attn.proj.": "attn_out.",
    "mlp.linear_fc1.": "ffn_up.",
    "mlp.linear_fc2.": "ffn_down.",
}
DEEPSTACK = {"norm.": "norm.", "linear_fc1.": "fc1.", "linear_fc2.": "fc2."}


def save_language(
    state: dict[str, torch.Tensor], config: Qwen3VLConfig, path: Path, kind: str = "Q8_0"
) -> dict[str, torch.Tensor]:
    """The language model of `inner_state` in one file, its matrices in a quantized type.

    Returns:
        What the file stands for, by the same names.
    """
    text = config.text_config
    writer = gguf.GGUFWriter(path, "qwen3vl")
    writer.add_block_count(text.num_hidden_layers)
    writer.add_embedding_length(text.hidden_size)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    rope = getattr(text, "rope_parameters", None) or text.rope_scaling
    writer.add_rope_freq_base(getattr(text, "rope_theta", None) or rope["rope_theta"])
    writer.add_rope_dimension_sections([*rope["mrope_section"], 0])
    writer.add_token_list([f"token {i}" for i in range(600)])  # longer than what is kept of arrays
    meant = {}
    for name, value in state.items():
        if not name.startswith("language_model."):
            continue
        inner = name.removeprefix("language_model.")
        prefix = ""
        if inner.startswith("layers."):
            _, number, inner = inner.split(".", 2)
            prefix = f"blk.{number}."
        ours = next(key for key in LANGUAGE if inner.startswith(key))
        meant[name] = _add(writer, prefix + LANGUAGE[ours] + inner.removeprefix(ours), value, kind)
    _finish(writer)
    return meant


def save_mmproj(
    state: dict[str, torch.Tensor], config: Qwen3VLConfig, path: Path, kind: str = "F16"
) -> dict[str, torch.Tensor]:
    """The vision tower of `inner_state` in one file; as `save_language`."""
    vision = config.vision_config
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen3vl_merger")
    writer.add_vision_projection_dim(vision.out_hidden_size)
    writer.add_vision_head_count(vision.num_heads)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_spatial_merge_size(vision.spatial_merge_size)
    writer.add_vision_is_deepstack_layers([i in vision.deepstack_visual_indexes for i in range(vision.depth)])
    meant = {}
    for name, value in state.items():
        if not name.startswith("visual."):
            continue
        inner, prefix, table = name.removeprefix("visual."), "", VISION
        if inner == "patch_embed.proj.weight":  # a convolution over two frames, as two over one
            for frame, end in enumerate(("", ".1")):
                _add(writer, f"v.patch_embd.weight{end}", value[:, :, frame], "F32")
            meant[name] = value.float()
            continue
        if inner.startswith("patch_embed.proj."):
            meant[name] = _add(writer, "v.patch_embd." + inner.rpartition(".")[2], value, kind)
            continue
        if inner.startswith("blocks."):
            _, number, inner = inner.split(".", 2)
            prefix = f"v.blk.{number}."
        elif inner.startswith("deepstack_merger_list."):
            _, number, inner = inner.split(".", 2)
            prefix, table = f"v.deepstack.{vision.deepstack_visual_indexes[int(number)]}.", DEEPSTACK
        ours = next(key for key in table if inner.startswith(key))
        meant[name] = _add(writer, prefix + table[ours] + inner.removeprefix(ours), value, kind)
    _finish(writer)
    return meant


def _add(writer: gguf.GGUFWriter, name: str, value: torch.Tensor, kind: str) -> torch.Tensor:
    """Vectors stay in float32, as does what a type's blocks do not divide."""
    numbers = value.float().numpy()
    type_ = GGMLQuantizationType[kind]
    if value.ndim != 2 or numbers.shape[-1] % gguf.GGML_QUANT_SIZES[type_][0] or "position_embd" in name:
        type_ = GGMLQuantizationType.F32
    data = gguf.quants.quantize(numbers, type_)
    writer.add_tensor(name, data, raw_dtype=type_)
    return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(data, type_).reshape(numbers.shape)))


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
