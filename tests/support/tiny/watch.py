"""What models do: which layers run over how many tokens, and how often a vision tower looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch


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
