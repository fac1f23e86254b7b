"""Qwen3-VL in the web UI: loaded as needed, placed by the host's memory management."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from backend import memory_management as mm

from ..budget import head_bytes, read_together, weight_bytes, working_bytes
from ..engines import ENGINES
from ..errors import ZvlError
from ..options import Settings
from ..qwen3vl import language, vision, writing
from ..qwen3vl.checkpoint import Checkpoint
from ..qwen3vl.layers import watched
from ..qwen3vl.passes import Pass
from ..qwen3vl.writing import Writer
from ..reference import Reference, References, sized
from ..sequence import Sequence
from .forge import check_interrupted, show_progress
from .forge_memory import Residence

GIB = 2**30


class ForgeExtractor:
    """Qwen3-VL, or its vision tower alone, on the host's device, placed by the host's memory management.

    What is loaded of it is always placed whole: the host's partial offloading leaves parts of a transformers model on
        the wrong
    device.

    Args:
        checkpoint: The weights.
        residence: Where what is loaded is held.
        settings: Of which the engine, the layer, the storage and the device matter. Device `auto` is the text
            encoder's, or the CPU where the model can't fit.
        check: Called before loading and between layers; what it raises ends the work. Default: Interrupt and Skip do.
        writes: Whether it is to write as well as to read.

    Attributes:
        note: Something the user should know about the placement, or "".
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        residence: Residence,
        check: Callable[[], None] = check_interrupted,
        writes: bool = False,
    ):
        self.checkpoint = checkpoint
        self._check = check
        self._residence = residence
        self.note = ""
        self._storage = settings.storage if ENGINES[settings.engine].language_model else "auto"
        self.device = torch.device("cpu") if settings.device == "cpu" else mm.text_encoder_device()
        self.dtype = _compute_dtype(self.device)
        if self.device.type != "cpu":
            weights = weight_bytes(checkpoint, settings, self.dtype.itemsize)
            needed = (
                weights
                + working_bytes(read_together(settings))
                + (head_bytes(checkpoint, self.dtype.itemsize) if writes else 0)
            )
            total = mm.get_total_memory(self.device)
            no_vram = getattr(mm.vram_state, "name", "") == "NO_VRAM"
            if needed > total or no_vram:
                self.note = (
                    f"Qwen3-VL needs {needed / GIB:.1f} GiB, the graphics card has {total / GIB:.1f}: "
                    "it runs on the CPU, which is slower."
                )
                self.device = torch.device("cpu")
                self.dtype = _compute_dtype(self.device)
        self.precision = f"{self.device} {self.dtype}" + (" fp8" if self._storage == "fp8" else "")

    def extend(
        self,
        sequences: list[Sequence],
        references: References,
        tokens: int,
        depth: int,
        prefix: Pass | None = None,
        tails: list[Pass | None] | None = None,
    ) -> tuple[Pass, list[Pass | None]]:
        with self._placed("language", sum(len(sequence.ids) for sequence in sequences), depth) as model:
            return model.extend(sequences, references, tokens, depth, prefix, tails)

    def write(
        self, sequence: Sequence, reference: Reference, tokens: int, writer: Writer, most: int, ends: list[int]
    ) -> None:
        """As `writing.write`."""
        room = len(sequence.ids) + most // 4  # what is written leaves keys and values, and nothing else
        with self._placed("language", room, self.checkpoint.layers, writes=True) as model:
            writing.write(model, sequence, reference, tokens, writer, most, ends)

    def image_tokens(self, reference: Reference, tokens: int) -> Any:
        with self._placed("vision", tokens) as tower:
            return vision.stacked_tokens(tower, sized(reference, tokens, self.checkpoint.unit))

    @contextlib.contextmanager
    def _placed(self, part: str, tokens: int, depth: int = 0, writes: bool = False) -> Iterator[Any]:
        """The model on its device for the time of one pass; failures are told in one line and leave nothing behind.

        Raises:
            Stopped: the user has ended the picture, before the pass or between its layers.
        """
        out_of_memory = getattr(mm, "OOM_EXCEPTION", torch.cuda.OutOfMemoryError)
        try:
            self._check()  # before what may take longest: loading
            self._place(part, tokens, depth, writes)
            show_progress(f"Z-Image VL: {'describing' if writes else 'reading'} the reference")
            model = self._residence.model
            with watched(_layers(model, part), self._check):
                yield model
        except (out_of_memory, MemoryError) as error:
            self._residence.drop()
            raise ZvlError(
                f"Not enough memory for Qwen3-VL on {self.device}. Choose the device cpu, or a smaller reference size."
            ) from error
        except RuntimeError as error:
            self._residence.drop()  # in an unknown state, on an unknown device: the next run starts afresh
            if "not enough memory" in str(error):  # torch's words for the CPU
                raise ZvlError(
                    "Not enough main memory for Qwen3-VL. Close other programs, or use a computer with more."
                ) from error
            raise

    def _place(self, part: str, tokens: int, depth: int, writes: bool) -> None:
        key = (self.checkpoint.identity, self.precision, part)
        # The host moves the weights later, outside inference mode, where tensors made inside could not be replaced.
        with torch.inference_mode(False):
            if self._residence.key != key:
                self._residence.drop()
                show_progress(f"Z-Image VL: loading {self.checkpoint.name}")
                if part == "vision":
                    tower = vision.load(self.checkpoint, self.dtype)
                    self._residence.hold(key, tower, tower, self.device)
                else:
                    model = language.load(self.checkpoint, self.dtype, depth, self._storage)
                    self._residence.hold(key, model, model.module, self.device)
            model = self._residence.model
            deeper = depth > getattr(model, "depth", depth)
            if deeper or (part == "language" and writes != (model.head is not None)):
                show_progress(f"Z-Image VL: loading more of {self.checkpoint.name}")
                self._residence.take_off()  # the host would not learn that the module has changed
                try:
                    model.deepen(depth)
                    if writes:
                        model.load_head()
                    else:
                        model.drop_head()
                finally:  # what was there is still of use
                    self._residence.hold(key, model, model.module, self.device)
            self._residence.place(tokens)


def _layers(model: Any, part: str) -> list[torch.nn.Module]:
    """What runs one after another in a pass."""
    if part == "vision":
        return list(model.blocks)
    return [*model.module.visual.blocks, *model.module.language_model.layers]


def _compute_dtype(device: Any) -> Any:
    """The host's dtype for text encoders where Qwen3-VL can compute in it, else bfloat16 if possible.

    fp8 is for storage only; fp16 is slow on a CPU and its range is narrow for the attention sink's activations.
    """
    dtype = mm.text_encoder_dtype()
    if dtype in (torch.bfloat16, torch.float32):
        return dtype
    if device.type == "cpu" or mm.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16
