"""Tiny random models of the real classes and a tokenizer that splits as theirs does."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3Model, Qwen3VLConfig, Qwen3VLForConditionalGeneration

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
        "hidden_size": shape["text"].get("hidden_size", 64),
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
        "out_hidden_size": shape["text"].get("hidden_size", 64),
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **token_ids(tokenizer))


def make_model(config: Qwen3VLConfig, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    torch.manual_seed(seed)
    return randomized(Qwen3VLForConditionalGeneration(config))


def make_writer(tokenizer: Tokenizer, tied: bool = False, seed: int = 4) -> Qwen3VLForConditionalGeneration:
    """A random model that does not write the same token for ever; with a head of its own, it writes text and nothing
    else."""
    config = make_config(tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
    model = make_model(config, seed)
    rows = model.get_input_embeddings().weight
    if tied:  # what is read is hardly what is written, as it is in trained models
        rows.data *= 0.02
        model.lm_head.weight = rows
    else:
        head = torch.randn(rows.shape)
        head[[*range(tokenizer.get_vocab_size() - len(SPECIALS), len(head))]] = 0.0
        model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    return model


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


def is_version_4() -> bool:
    import transformers

    return transformers.__version__.startswith("4.")
