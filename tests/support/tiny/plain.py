"""The reference: what plain transformers does."""

from __future__ import annotations

import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen3Model, Qwen3VLForConditionalGeneration

from .models import SPARE, is_version_4, token_ids

try:  # transformers 5 without torchvision
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil as ImageProcessor
except ImportError:
    from transformers import Qwen2VLImageProcessor as ImageProcessor


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
    """The sequence as it is defined, and the positions of each token mode, written independently.

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
