"""Tiny random models of the real classes, a tiny tokenizer, and what plain transformers makes of them.

Nothing here imports zvl_ext: this is the independent side of every comparison.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3Model, Qwen3VLConfig, Qwen3VLForConditionalGeneration

try:  # transformers 5 without torchvision
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as ImageProcessor
except ImportError:
    from transformers import Qwen2VLImageProcessor as ImageProcessor

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# The pattern of Qwen's own tokenizer: line breaks that follow each other, and white space before them, are one piece.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRAINING_TEXT = [
    "user\n\nassistant\n\nsystem\n\nuser\nassistant\nsystem\n",
    "a photo of a cat\n\na photo of a dog\n\n\na red apple on a wooden table",
    "user\n\n\nthe same in blue\n\n\na lighthouse above the sea\n\n\n",
] * 4
VOCABULARY = 400  # what the tokenizer learns besides the special tokens
EMBEDDINGS = 512  # rows of the embedding, more than there are tokens, as in the real models
SPARE = EMBEDDINGS - 1  # an id that no text has


# --- tokenizer


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer with Qwen's splitting rule and special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens, under the keys of Qwen3-VL's config.json."""
    return {
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
    }


# --- models

# A shape whose configuration follows from the shapes alone: 16 vision heads, MRoPE 24 : 20 : 20, DeepStack evenly
# spaced.
REGULAR = {
    "text": {"head_dim": 32, "mrope_section": [6, 5, 5], "rope_theta": 5e6},
    "vision": {"hidden_size": 64, "num_heads": 16},
}
# One that does not, so that only config.json can tell.
IRREGULAR = {
    "text": {"head_dim": 16, "mrope_section": [4, 2, 2], "rope_theta": 1e4},
    "vision": {"hidden_size": 32, "num_heads": 4},
}
# Z-Image's text encoder beside the first: the same widths, a theta of its own, and more layers, so that no count is
# mistaken for the other.
TEXT_ENCODER = {
    "text": {**REGULAR["text"], "rope_theta": 1e6, "layers": 7},
    "vision": REGULAR["vision"],
}


def make_config(tokenizer: Tokenizer, shape: dict = REGULAR) -> Qwen3VLConfig:
    """A configuration of 5 text layers (or as the shape says) and 4 vision layers, read alike by transformers 4 and
    5."""
    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": shape["text"]["mrope_section"]}
    theta = shape["text"]["rope_theta"]
    text = {
        "vocab_size": EMBEDDINGS,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": shape["text"].get("layers", 5),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": shape["text"]["head_dim"],
        "rms_norm_eps": 1e-6,
        "rope_theta": theta,
        "rope_scaling": rope,
        "rope_parameters": rope | {"rope_theta": theta},
        "max_position_embeddings": 4096,
    }
    vision = {
        "depth": 4,
        "hidden_size": shape["vision"]["hidden_size"],
        "intermediate_size": 48,
        "num_heads": shape["vision"]["num_heads"],
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 64,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **token_ids(tokenizer))


def make_model(config: Qwen3VLConfig, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    return randomized(Qwen3VLForConditionalGeneration(config))


def make_text_encoder(tokenizer: Tokenizer, seed: int = 2) -> Qwen3Model:
    """A random Qwen3, as Z-Image reads prompts with: plain 1-D RoPE."""
    of_vl = make_config(tokenizer, TEXT_ENCODER).text_config
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
    )
    theta = TEXT_ENCODER["text"]["rope_theta"]
    rope = (
        {"rope_theta": theta} if is_version_4() else {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    )
    torch.manual_seed(seed)
    return randomized(
        Qwen3Model(Qwen3Config(**{name: getattr(of_vl, name) for name in same}, **rope, max_position_embeddings=4096))
    )


def with_text_encoder(
    model: Qwen3VLForConditionalGeneration, text_encoder: Qwen3Model, tokenizer: Tokenizer
) -> Qwen3VLForConditionalGeneration:
    """A whole Qwen3-VL that sees with the eyes of `model` and reads with the text encoder."""
    whole = Qwen3VLForConditionalGeneration(make_config(tokenizer, TEXT_ENCODER)).eval().requires_grad_(False)
    whole.model.visual.load_state_dict(model.model.visual.state_dict(), strict=True)
    whole.model.language_model.load_state_dict(text_encoder.state_dict(), strict=True)
    return whole


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights with which every layer matters: the usual initialization (0.02) would hide a wrong layer in
    rounding."""
    model = model.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        noise = torch.randn_like(weight)
        if "norm" in name and name.endswith("weight"):
            weight.copy_(1.0 + 0.1 * noise)
        elif weight.ndim == 1:
            weight.copy_(0.1 * noise)
        elif "embed" in name and "patch" not in name:
            weight.copy_(noise)
        else:
            weight.copy_(noise * weight[0].numel() ** -0.5)
    return model


def save_folder(
    model: Qwen3VLForConditionalGeneration, tokenizer: Tokenizer | None, folder: Path, max_shard_size: str = "5GB"
) -> Path:
    """A Hugging Face folder as transformers itself writes it."""
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer:
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


# --- what models do


@dataclass
class Work:
    """What was run, in order.

    Attributes:
        read: Of Qwen3-VL's language model, (layer, tokens) for every call of a layer; a batch counts all its tokens.
        encoded: The same of the image model's text encoder.
        looks: Calls of a vision tower.
    """

    read: list[tuple[int, int]] = field(default_factory=list)
    encoded: list[tuple[int, int]] = field(default_factory=list)
    looks: int = 0

    def __bool__(self) -> bool:
        return bool(self.read or self.encoded or self.looks)


def layers(first: int, end: int, tokens: int) -> list[tuple[int, int]]:
    """One call of each of some layers, as in Work."""
    return [(layer, tokens) for layer in range(first, end)]


@contextlib.contextmanager
def work() -> Iterator[Work]:
    """Watch all models while the context is open: those that are there, and those that are still to be loaded."""
    done = Work()
    lists = {"Qwen3VLTextDecoderLayer": done.read, "Qwen3DecoderLayer": done.encoded}

    def watch(module: torch.nn.Module, inputs: tuple) -> None:
        kind = type(module).__name__
        if kind in lists:
            lists[kind].append((module.self_attn.layer_idx, inputs[0].shape[0] * inputs[0].shape[1]))
        done.looks += kind == "Qwen3VLVisionModel"

    handle = torch.nn.modules.module.register_module_forward_pre_hook(watch)
    try:
        yield done
    finally:
        handle.remove()


# --- single files

LAYOUTS = {
    "model.language_model + model.visual": {"language_model.": "model.language_model.", "visual.": "model.visual."},
    "model.layers + visual": {"language_model.": "model.", "visual.": "visual."},
}


def inner_state(model: Qwen3VLForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights under the names of transformers' Qwen3VLModel, without the logits' layer."""
    return {name: value.detach().clone() for name, value in model.model.named_parameters()}


def in_layout(state: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """Rename the tensors to one of the layouts that single files come in."""
    renamed = {}
    for name, value in state.items():
        inner = next(prefix for prefix in LAYOUTS[layout] if name.startswith(prefix))
        renamed[LAYOUTS[layout][inner] + name.removeprefix(inner)] = value.contiguous()
    return renamed


def save_single(
    state: dict[str, torch.Tensor],
    path: Path,
    layout: str = "model.language_model + model.visual",
    metadata: dict[str, str] | None = None,
) -> Path:
    """One .safetensors file, names as in `inner_state`."""
    save_file(in_layout(state, layout), str(path), metadata)
    return path


def config_metadata(config: Qwen3VLConfig) -> dict[str, str]:
    """The `config` entry of a single file's metadata."""
    return {"config": json.dumps(config.to_dict(), default=str)}


def is_linear(name: str, value: torch.Tensor) -> bool:
    """Whether quantized files store this tensor in fp8: matrices of the language model's layers."""
    return value.ndim == 2 and name.startswith("language_model.layers.")


# How each kind of fp8 file names and shapes its scales, and what else it carries.
FP8_KINDS = ("comfy", "older", "rows", "blocks", "none")


def quantize(state: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Store the language model's matrices in fp8 e4m3 the way one kind of published file does.

    Returns:
        The tensors to save (names as in `inner_state`, plus companions), and the float64 weights they stand for.
    """
    stored, meant = {}, {}
    for name, value in state.items():
        if not is_linear(name, value):
            stored[name] = value.to(torch.bfloat16)
            meant[name] = stored[name].double()
            continue
        stem = name.removesuffix(".weight")
        if kind == "none":  # plain fp8, nothing to multiply with
            stored[name] = value.to(torch.float8_e4m3fn)
            meant[name] = stored[name].double()
            continue
        if kind == "rows":
            scale = value.abs().amax(dim=1) / 448
            spread = scale[:, None]
        elif kind == "blocks":
            rows, columns = (-(-side // 128) for side in value.shape)
            padded = torch.zeros(rows * 128, columns * 128)
            padded[: value.shape[0], : value.shape[1]] = value
            scale = padded.reshape(rows, 128, columns, 128).abs().amax(dim=(1, 3)) / 448
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: value.shape[0], : value.shape[1]]
        else:
            scale = value.abs().max() / 448
            spread = scale
        stored[name] = (value / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
        meant[name] = stored[name].double() * spread.double()
        stored[stem + {"older": ".scale_weight", "blocks": ".weight_scale_inv"}.get(kind, ".weight_scale")] = (
            scale.clone()
        )
        if kind == "older":
            stored[stem + ".scale_input"] = torch.ones(())
        else:
            stored[stem + ".input_scale"] = torch.ones(())
        if kind in ("comfy", "rows"):
            stored[stem + ".comfy_quant"] = as_bytes({"format": "float8_e4m3fn"})
    return stored, meant


def as_bytes(value: object) -> torch.Tensor:
    """JSON as a uint8 tensor, the way quantized files say what they are."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


# --- pictures


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colored picture with noise: every region is different from every other."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([x / width, y / height, (x + y) / (width + height)], axis=2) * 200
    return Image.fromarray((smooth + random.integers(0, 55, (height, width, 3))).astype(np.uint8), "RGB")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- the reference: what plain transformers does


def plain_pixels(image: Image.Image, tokens: int) -> dict[str, torch.Tensor]:
    """`pixel_values` and `image_grid_thw` of transformers' own image processor, under a budget of image tokens."""
    least, most = 32 * 32, tokens * 32 * 32
    bounds = (
        {"min_pixels": least, "max_pixels": most}
        if is_version_4()
        else {"size": {"shortest_edge": least, "longest_edge": most}}
    )
    processor = ImageProcessor(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        **bounds,
    )
    return dict(processor(images=[image], return_tensors="pt"))


def plain_ids(
    tokenizer: Tokenizer, prompt: str, images: int, system: str = ""
) -> tuple[list[int], dict[str, list[int]]]:
    """The sequence as DESIGN describes it, and the positions of each token mode, written independently.

    The vision block stands behind the first three tokens of the template, which are `<|im_start|>`, `user` and the line
    break together with whatever line breaks the tokenizer merges into it.
    """

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    special = token_ids(tokenizer)
    before = encode(f"<|im_start|>system\n{system}<|im_end|>\n") if system else []
    host = encode(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
    block = [special["vision_start_token_id"], *[special["image_token_id"]] * images, special["vision_end_token_id"]]
    ids = before + host[:3] + block + host[3:]
    first = len(before) + 3
    modes = {
        "text": [*range(len(before), first), *range(first + len(block), len(ids))],
        "image": list(range(first, first + len(block))),
        "image_no_markers": list(range(first + 1, first + len(block) - 1)),
        "all": list(range(len(before), len(ids))),
    }
    return ids, modes


def plain_inputs(
    model: Qwen3VLForConditionalGeneration, ids: list[int], pixels: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Arguments for a call of the plain model."""
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), **pixels}
    if not is_version_4():
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    return inputs


def plain_hidden_states(
    model: Qwen3VLForConditionalGeneration, ids: list[int], pixels: dict[str, torch.Tensor], block: list[int]
) -> tuple[torch.Tensor, ...]:
    """`hidden_states` of plain transformers, [tokens, hidden] each, embeddings first.

    Args:
        block: The positions that are the image. An image token's id anywhere else comes from a prompt that holds the
            literal text `<|image_pad|>`. Plain transformers finds images by id and would refuse one token too many, so
            such a position gets a spare id whose embedding is made the same: the same text, no longer taken for an
            image.
    """
    image = model.config.image_token_id
    weight = model.get_input_embeddings().weight
    kept = weight[SPARE].clone()
    weight[SPARE] = weight[image]
    ids = [SPARE if token == image and place not in block else token for place, token in enumerate(ids)]
    try:
        model.model.rope_deltas = None  # kept between calls
        with torch.no_grad():
            # The model without its logits: with them, transformers 4 leaves the final norm out of the last state.
            output = model.model(**plain_inputs(model, ids, pixels), output_hidden_states=True)
    finally:
        weight[SPARE] = kept
    return tuple(states[0] for states in output.hidden_states)


def plain_image_tokens(model: Qwen3VLForConditionalGeneration, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the whole model's vision tower makes of a picture: image tokens and DeepStack's additions, [1 + additions,
    N, hidden]."""
    with torch.no_grad():
        output = model.model.visual(pixels["pixel_values"], grid_thw=pixels["image_grid_thw"])
    tokens, deepstack = output if isinstance(output, tuple) else (output.pooler_output, output.deepstack_features)
    return torch.stack([tokens, *deepstack])


def plain_text_states(text_encoder: Qwen3Model, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`hidden_states` of the plain text encoder on input embeddings [tokens, hidden], the inputs themselves first."""
    with torch.no_grad():
        output = text_encoder(inputs_embeds=inputs[None], use_cache=False, output_hidden_states=True)
    return tuple(states[0] for states in output.hidden_states)


def is_version_4() -> bool:
    import transformers

    return transformers.__version__.startswith("4.")
