"""A text written by Qwen3-VL: transformers' own generation over the layers that are loaded."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ZvlError
from ..reference import Reference, sized
from ..sequence import Sequence, check_ids
from .linear import float32_memory
from .loading import config_object, smallest, transformers_classes
from .vision import patches

if TYPE_CHECKING:
    from .embedding import StoredEmbedding
    from .language import Qwen3VL
    from .modules import VLModel


Writer = Callable[[int], bool]


@torch.inference_mode()
def write(
    model: Qwen3VL, sequence: Sequence, reference: Reference, tokens: int, writer: Writer, most: int, ends: list[int]
) -> None:
    """Have a text written behind a sequence, always with the most probable token: the same text every time.

    Args:
        model: With all layers and its head.
        sequence: From `build_sequence`, with the reference's grid.
        tokens: The budget the grid was made with.
        writer: Gets each new token, an end as well; true where it wants no more.
        most: How many tokens at most.
        ends: Ids that end a text.

    Raises:
        ZvlError: ids outside the vocabulary.
    """
    checkpoint = model.checkpoint
    check_ids((*sequence.ids, *ends), model.embedding.num_embeddings, checkpoint.name)
    vision = model.module.visual.config
    pixels, grid = patches(
        sized(reference, tokens, checkpoint.unit),
        vision.patch_size,
        vision.spatial_merge_size,
        vision.temporal_patch_size,
    )
    device = model.module.language_model.norm.weight.device
    ids = torch.tensor([sequence.ids], device=device)
    with float32_memory(), _generator(model) as generator:
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": pixels.to(device, model.module.visual.patch_embed.proj.weight.dtype),
            "image_grid_thw": torch.tensor([[1, *grid]], device=device),
        }
        if "mm_token_type_ids" in inspect.signature(generator.forward).parameters:  # transformers 5
            inputs["mm_token_type_ids"] = torch.zeros_like(ids, dtype=torch.int)
            inputs["mm_token_type_ids"][0, sequence.images] = 1
        try:
            generator.generate(
                **inputs,
                generation_config=_greedy(most, ends),
                stopping_criteria=_told(writer),
                logits_processor=[_finite(checkpoint.name)],
            )
        finally:
            model.module.rope_deltas = None  # of this sequence


def _greedy(most: int, ends: list[int]) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])


def _finite(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A check of logits [1, vocabulary]: the most probable token of none that are numbers would be any."""

    def check(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not torch.isfinite(scores).all():
            raise ZvlError(f"{name} makes values that are not finite. Choose the device cpu, or other weights.")
        return scores

    return check


def _told(writer: Writer) -> Any:
    """A stopping criterion that hears of every token at once. (A streamer of transformers 5 hears one token late.)"""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Told(StoppingCriteria):  # type: ignore[misc]  # a class of no known type
        def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
            full = writer(int(input_ids[0, -1]))
            return torch.full((input_ids.shape[0],), full, dtype=torch.bool, device=input_ids.device)

    return StoppingCriteriaList([Told()])


@contextlib.contextmanager
def _generator(model: Qwen3VL) -> Iterator[Any]:
    """transformers' Qwen3VLForConditionalGeneration around the loaded module, for the time of one text."""
    transformers_classes()
    from transformers import Qwen3VLForConditionalGeneration

    # One without layers, which is made at once; then the loaded parts take the places of its own.
    with torch.device("meta"):
        whole = Qwen3VLForConditionalGeneration(config_object(smallest(model.checkpoint.config)))
    whole.config = model.module.config
    whole.model, whole.lm_head = model.module, model.head
    text_model = model.module.language_model
    text_model.embed_tokens = _Rows(model.embedding, model.module)  # type: ignore[assignment]  # as called
    try:
        yield whole.eval()
    finally:
        text_model.embed_tokens = None  # type: ignore[assignment]  # as it was


class _Rows(torch.nn.Module):
    """The input embeddings on the device and in the dtype of a model."""

    def __init__(self, stored: StoredEmbedding, module: VLModel):
        super().__init__()
        self._rows, self._text_model = stored.forward, (module.language_model,)  # not a part of this one

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self._rows(ids.cpu())
        return rows.to(self._text_model[0].norm.weight)
