"""The two sides that are compared, and how they are timed."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from ...errors import ZvlError
from ...hosts.standalone import StandaloneExtractor
from ...qwen3vl import vision
from ...qwen3vl.checkpoint import Checkpoint
from ...qwen3vl.loading import build, config_object, transformers_classes
from ...reference import Reference
from ...sequence import Sequence
from .weights import DTYPE

TOLERANCE = 0.05  # relative difference of hidden states in bf16 up to which two runs are the same computation


class Naive:
    """transformers' own Qwen3-VL, once for every picture.

    All of it: every layer with its hidden states, and logits for every token.
    """

    def __init__(self, checkpoint: Checkpoint):
        from transformers import Qwen3VLForConditionalGeneration

        with torch.device("meta"):
            self.module = Qwen3VLForConditionalGeneration(config_object(checkpoint.config)).eval().requires_grad_(False)
        # From a checkpoint whose tensors both sides share.
        self.module.model = build(transformers_classes()[0], checkpoint, DTYPE)
        self.module.lm_head.weight = self.module.model.language_model.embed_tokens.weight
        for part in self.module.modules():
            if isinstance(part, torch.nn.Linear):
                part.__class__ = torch.nn.Linear  # the product's own kind is faster

    def inputs(self, sequence: Sequence, reference: Reference) -> dict[str, torch.Tensor]:
        """What a processor would give for a reference that needs no resizing."""
        ids = torch.tensor([sequence.ids])
        config = self.module.config.vision_config
        pixels, grid = vision.patches(
            reference.image, config.patch_size, config.spatial_merge_size, config.temporal_patch_size
        )
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels,
            "image_grid_thw": torch.tensor([[1, *grid]]),
        }
        if "mm_token_type_ids" in inspect.signature(self.module.forward).parameters:  # transformers 5
            inputs["mm_token_type_ids"] = (ids == self.module.config.image_token_id).int()
        return inputs

    @torch.inference_mode()
    def __call__(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """All hidden states, [1, tokens, hidden] each."""
        self.module.model.rope_deltas = None  # kept between calls
        return self.module(**inputs, output_hidden_states=True).hidden_states


class Ours(StandaloneExtractor):
    """The product's own extractor on the CPU.

    Attributes:
        passes: How many times something was run for an extraction.
    """

    def __init__(self, checkpoint: Checkpoint, storage: str = "auto"):
        super().__init__(checkpoint, "cpu", DTYPE, storage)
        self.passes = 0

    def extend(self, *args: Any, **more: Any) -> tuple:
        self.passes += 1
        return super().extend(*args, **more)

    @property
    def held(self) -> int:
        """Bytes of the weights that are loaded.

        The input embedding stays in the file, where a token's row is looked up.
        """
        return sum(nbytes(module) for module in (self._model and self._model.module, self._tower) if module is not None)


def nbytes(module: torch.nn.Module) -> int:
    """Bytes of a module's tensors, each counted once."""
    return sum(
        tensor.nbytes
        for tensor in {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}.values()
    )


@contextlib.contextmanager
def counted() -> Iterator[Counter[int]]:
    """Count the tokens that each layer of a Qwen3-VL's language model reads while the context is open.

    Yields:
        Tokens by layer.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer

    read: Counter[int] = Counter()

    def hook(module: torch.nn.Module, inputs: tuple, output: Any) -> None:
        if isinstance(module, Qwen3VLTextDecoderLayer):
            rows = output[0] if isinstance(output, tuple) else output
            read[module.self_attn.layer_idx] += rows.shape[0] * rows.shape[1]

    handle = torch.nn.modules.module.register_module_forward_hook(hook)  # layers that are loaded later are counted, too
    try:
        yield read
    finally:
        handle.remove()


def interleaved(
    jobs: dict[str, Callable[[int], Any]],
    repetitions: int,
    say: Callable[[str], None],
    check: Callable[[int, dict[str, Any]], None] | None = None,
) -> dict[str, float]:
    """Time several jobs, one after the other in every repetition, so that a machine that slows down slows all of them.

    Args:
        jobs: Functions of the repetition's number. Number 0 is a warm-up that is not counted.
        check: Gets a repetition's number and all results by the job's name, outside of the time that is measured.

    Returns:
        The median time of each in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(repetitions + 1):
        results = {}
        for name, job in jobs.items():
            start = time.perf_counter()
            results[name] = job(number)
            seconds[name].append(time.perf_counter() - start)
            say(f"  {'warm-up' if number == 0 else f'{number}/{repetitions}'} {name}: {seconds[name][-1]:.3g} s")
        if check:
            check(number, results)
    return {name: median(times[1:]) for name, times in seconds.items()}


def difference(ours: torch.Tensor, naive: torch.Tensor, what: str) -> float:
    """Relative difference of hidden states [tokens, hidden]: the norm of the difference over the norm.

    Raises:
        ZvlError: they are not the same computation, so that no time may be told.
    """
    ours, naive = ours.float(), naive.float()
    relative = float((ours - naive).norm() / naive.norm()) if ours.shape == naive.shape else float("inf")
    if not relative <= TOLERANCE:
        raise ZvlError(
            f"The hidden states of {what} are not what transformers computes (relative difference {relative:.3g}): "
            "nothing is measured."
        )
    return relative
