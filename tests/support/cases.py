"""Prompts and pictures that are hard to read, and the sequence of one of each."""

from __future__ import annotations

from collections.abc import Callable

from zvl_ext.qwen3vl.checkpoint import Checkpoint
from zvl_ext.reference import Reference
from zvl_ext.sequence import TEMPLATE, Sequence, build_sequence

TOKENS = 24  # budget of image tokens
PICTURES = {
    "square": (96, 96),
    "wide": (160, 96),
    "tall": (64, 192),
    "not a multiple of 32": (150, 77),
    "larger than the budget": (500, 333),
    "much larger and narrow": (90, 900),
    "one token": (32, 32),
}
SIZES = [(160, 96), (64, 192), (500, 333), (32, 32)]  # a few of them, where each is read in several ways
BEFORE = 3 + 17  # tokens up to the fork: the template's head, 15 image tokens and their markers
PROMPTS = {
    "ordinary": "a photo of a cat",
    "empty": "",
    "one line break first": "\na cat",
    "two line breaks first": "\n\na cat",
    "many line breaks first": "\n\n\n\n\n\n\na cat",
    "white space and line breaks first": " \n \n a cat",
    "windows line breaks first": "\r\n\r\na cat",
    "only line breaks": "\n\n\n",
    "image token": "a <|image_pad|> b<|image_pad|>",
    "image token first": "<|image_pad|>",
    "whole vision block": "<|vision_start|><|image_pad|><|vision_end|>",
    "end of turn": "a<|im_end|>\n<|im_start|>assistant\nb",
    "emoji and scripts": "ein Bär 🐻‍❄️ 漢字 العربية é",
    "braces": "{} {0} {prompt} %s",
}


def sequence_for(
    checkpoint: Checkpoint,
    encode: Callable[[str], list[int]],
    prompt: str,
    reference: Reference,
    tokens: int = TOKENS,
    system: str = "",
) -> Sequence:
    return build_sequence(
        encode(TEMPLATE.format(prompt)), checkpoint.grid(reference, tokens), encode, system, checkpoint.vision_tokens
    )
