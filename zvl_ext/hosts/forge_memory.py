"""Qwen3-VL's place in the web UI's memory: what is held between pictures, what it takes and what there is."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import torch
from backend import memory_management as mm
from backend.patcher.base import ModelPatcher

from ..budget import Memory, weight_bytes, working_bytes
from ..options import Settings
from ..qwen3vl.checkpoint import Checkpoint
from .forge import queue_lock, takes


class Residence:
    """The one part of Qwen3-VL that is held between pictures, as the host holds its text encoder.

    Attributes:
        key: What is held: of which weights, how, and which part; None where nothing is.
        model: What reads, a `language.Qwen3VL` or a vision tower.
        patcher: The host's handle of its module.
    """

    def __init__(self) -> None:
        self.key: tuple | None = None
        self.model: Any = None
        self.patcher: Any = None

    def hold(self, key: tuple, model: Any, module: Any, device: Any) -> None:
        """Let the host's memory management place a model's module on a device."""
        offload = device if device.type == "cpu" else mm.text_encoder_offload_device()
        self.key, self.model, self.patcher = (
            key,
            model,
            ModelPatcher(module, load_device=device, offload_device=offload),
        )

    def take_off(self) -> None:
        """Take the module from the host: it goes to where the host keeps what is not in use."""
        self.patcher.detach()
        mm.unload_model(self.patcher)
        self.patcher = None

    def drop(self) -> None:
        if self.model is None:
            return
        with contextlib.suppress(Exception):  # best effort: this runs after failures, too
            self.take_off()
        self.key = self.model = self.patcher = None
        gc.collect()
        mm.soft_empty_cache()

    def place(self, tokens: int) -> Any:
        """Put what is held on its device, whole, with room for a pass over that many tokens; gives what reads."""
        # The host's partial offloading leaves parts of a transformers model on the wrong device.
        whole = {"force_full_load": True} if takes(mm.load_models_gpu, "force_full_load") else {}
        mm.load_models_gpu([self.patcher], memory_required=working_bytes(tokens), **whole)
        return self.model

    def unload(self) -> None:
        """Give back the memory that Qwen3-VL takes, when no picture is being made."""
        with queue_lock():
            self.drop()

    @property
    def main_memory(self) -> int:
        """Bytes of main memory that are held from an earlier read, and given back for the next."""
        module = getattr(self.patcher, "model", None)
        if module is None:
            return 0
        return sum(t.nbytes for t in module.state_dict().values() if t.device.type == "cpu")

    def memory(self, checkpoint: Checkpoint, settings: Settings) -> Memory:
        """What reading a reference with these settings takes and what there is."""
        # Computed in two bytes, or in float32 where the host's text encoder is; a text encoder in fp8 does not count.
        weights = weight_bytes(checkpoint, settings, max(2, mm.text_encoder_dtype().itemsize))
        device = mm.text_encoder_device()
        on_cpu = "cpu" in (settings.device, device.type) or getattr(mm.vram_state, "name", "") == "NO_VRAM"
        return Memory(
            needed=weights + working_bytes(settings.reference_tokens),
            card=None if on_cpu else mm.get_total_memory(device),
            free=mm.get_free_memory(torch.device("cpu")) + self.main_memory,
        )
