"""Qwen3-VL's place in the web UI's memory: what is held between pictures, what it takes and what there is."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import torch
from backend import memory_management as mm
from backend.patcher.base import ModelPatcher

from ..budget import Memory, read_together, weight_bytes, working_bytes
from ..errors import ZvlError
from ..options import Settings
from ..qwen3vl.checkpoint import Checkpoint
from .forge import queue_lock, takes


def take_off(patcher: Any) -> None:
    """Take what a handle stands for out of the host's list of what is loaded.

    Every host has that list, and entries that know how to unload; what it calls the two steps together, if it has a
    name for them, differs. The entry goes first: whatever fails then, the host, which may hold what is in its list for
    good, has it no more.
    """
    for place in reversed(range(len(mm.current_loaded_models))):
        if mm.current_loaded_models[place].model is patcher:
            mm.current_loaded_models.pop(place).model_unload()


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
        """Let the host's memory management place a model's module on a device.

        Raises:
            ZvlError: the host would not give it back.
        """
        if not hasattr(mm, "current_loaded_models"):
            raise ZvlError(
                "This version of the web UI manages its memory in a way Z-Image VL does not know. Look for an update "
                "of Z-Image VL."
            )
        offload = device if device.type == "cpu" else mm.text_encoder_offload_device()
        self.key, self.model, self.patcher = (
            key,
            model,
            ModelPatcher(module, load_device=device, offload_device=offload),
        )

    def take_off(self) -> None:
        """Take the module from the host: it goes to where the host keeps what is not in use."""
        patcher, self.patcher = self.patcher, None
        take_off(patcher)

    def drop(self) -> None:
        """Give back all that is held. Does nothing where nothing is."""
        if self.model is None:
            return
        try:
            # This runs after failures, too, when there may be no memory to move the module into. It need not be: the
            # last reference goes with it.
            with contextlib.suppress(RuntimeError, MemoryError):
                self.take_off()
        finally:
            self.key = self.model = self.patcher = None
            gc.collect()
            mm.soft_empty_cache()

    def place(self, tokens: int) -> Any:
        """Put what is held on its device, whole, with room for a pass over that many tokens; gives what reads."""
        # The host's partial offloading leaves parts of a transformers model on the wrong device.
        whole = takes(mm.load_models_gpu, "force_full_load")
        mm.load_models_gpu(
            [self.patcher], memory_required=working_bytes(tokens), **({"force_full_load": True} if whole else {})
        )
        if not whole:  # a host that can't be asked has made all the room it can: the rest goes beside what is there
            self.patcher.model.to(self.patcher.load_device)
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
            needed=weights + working_bytes(read_together(settings)),
            card=None if on_cpu else mm.get_total_memory(device),
            free=mm.get_free_memory(torch.device("cpu")) + self.main_memory,
        )
