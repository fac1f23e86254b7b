"""The stand-in as an older web UI, feature by feature.

After backend/memory_management.py, backend/patcher/base.py and backend/nn/llm/llama.py of
ussoewwin/Stable-Diffusion-WebUI-Forge-Nunchaku, 18 January 2026 (commit e1d9103), where all of these are so at once.
Against that web UI itself the contract's tests run with ZVL_HOST.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import memory_management as mm
from backend.nn.llm import llama
from backend.patcher.base import ModelPatcher


def no_unload_model(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(mm, "unload_model")


def no_detach(patch: pytest.MonkeyPatch) -> None:
    """The entry moves the module itself."""

    def model_unload(self: Any, avoid_model_moving: bool = False) -> None:
        if not avoid_model_moving:
            self.model.model.to(self.model.offload_device)

    patch.delattr(ModelPatcher, "detach")
    patch.setattr(mm.LoadedModel, "model_unload", model_unload)


def no_patches_uuid(patch: pytest.MonkeyPatch) -> None:
    """LoRA are listed, not counted."""
    made = ModelPatcher.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        made(self, *args, **kwargs)
        del self.patches_uuid
        self.lora_patches = {}

    patch.setattr(ModelPatcher, "__init__", __init__)


def no_force_full_load(patch: pytest.MonkeyPatch) -> None:
    """What is short of memory is loaded in part: here all parameters, and none of the buffers."""

    def load_models_gpu(models: list, memory_required: float = 0, hard_memory_preservation: float = 0) -> None:
        for patcher in models:
            if not any(entry.model is patcher for entry in mm.current_loaded_models):
                for part in patcher.model.modules():
                    for name, weight in part.named_parameters(recurse=False):
                        moved = weight.to(patcher.load_device)
                        setattr(part, name, torch.nn.Parameter(moved, requires_grad=False))
                mm.current_loaded_models.insert(0, mm.LoadedModel(patcher))

    patch.setattr(mm, "load_models_gpu", load_models_gpu)


def strong_references(patch: pytest.MonkeyPatch) -> None:
    """The list of what is loaded holds it."""

    def __init__(self: Any, patcher: Any) -> None:  # noqa: N807
        self._patcher = lambda: patcher

    patch.setattr(mm.LoadedModel, "__init__", __init__)


def rotary_pair(patch: pytest.MonkeyPatch) -> None:
    """(cos, sin), each [1, 1, tokens, head_dim]."""
    rotary = llama.rotary

    def pair(config: Any, positions: torch.Tensor) -> tuple:
        cosine, sine, _ = rotary(config, positions)
        return cosine, torch.cat([sine, sine], dim=-1)

    def turn(x: torch.Tensor, tables: tuple) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * tables[0] + torch.cat([-second, first], dim=-1) * tables[1]

    patch.setattr(llama, "rotary", pair)
    patch.setattr(llama, "turn", turn)


FEATURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    function.__name__: function
    for function in (
        no_unload_model,
        no_detach,
        no_patches_uuid,
        no_force_full_load,
        strong_references,
        rotary_pair,
    )
}
