"""Qwen3-VL as transformers has it, reduced to what conditioning needs: hidden states at some layers.

transformers is imported here, on first use: a web UI's start does not pay for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from . import vision
from .errors import ZvlError
from .loading import build, transformers_classes
from .reference import Reference, sized
from .sequence import Sequence

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


class Qwen3VL:
    """A loaded Qwen3-VL.

    Attributes:
        module: transformers' `Qwen3VLModel` (vision tower and language model, no logits); what a host moves between devices.
        checkpoint: Where it came from.
    """

    def __init__(self, module: torch.nn.Module, checkpoint: Checkpoint):
        self.module = module
        self.checkpoint = checkpoint

    @torch.inference_mode()
    def hidden_states(self, sequence: Sequence, reference: Reference, tokens: int, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        """Hidden states of the whole sequence after it has seen the reference.

        Only the layers that are needed run, and no logits are computed.

        Args:
            sequence: From `build_sequence`, with this reference's grid.
            tokens: The budget the grid was made with.
            layers: Negative indices as in transformers' `hidden_states`: -1 is the last layer after the final norm, -k the
                residual stream after `layers - k + 1` layers.

        Returns:
            float32 [len(sequence.ids), hidden] on the CPU, by layer.

        Raises:
            ZvlError: a layer that does not exist, ids outside the vocabulary, or values that are not finite.
        """
        layers = sorted(set(layers))
        for layer in layers:
            self.checkpoint.check_layer(layer)
        text_model, count = self.module.language_model, self.checkpoint.layers
        embedding = text_model.embed_tokens
        device = embedding.weight.device
        if max(sequence.ids) >= embedding.num_embeddings:
            raise ZvlError(
                f"{self.checkpoint.name} has a vocabulary of {embedding.num_embeddings}, the prompt a token {max(sequence.ids)}. "
                "Choose a model with Qwen3's tokenizer."
            )
        image, deepstack, grid = vision.image_tokens(self.module.visual, sized(reference, tokens, self.checkpoint.unit))
        if grid != sequence.grid:
            raise ValueError(f"the sequence was built for {sequence.grid} image tokens, the reference gives {grid}")

        embeds = embedding(torch.tensor([sequence.ids], device=device))
        embeds[0, sequence.image_start : sequence.image_end] = image.to(embeds.dtype)
        mask = torch.zeros(1, len(sequence.ids), dtype=torch.bool, device=device)
        mask[0, sequence.image_start : sequence.image_end] = True
        positions = sequence.position_ids().to(device)
        # Four rows: with three, transformers 4 would take the image's repeated time for a break between packed sequences.
        order = torch.arange(positions.shape[1], device=device)[None]
        deepest = max(count + layer + 1 for layer in layers)
        with first_layers(text_model, deepest), recorded(text_model, {count + k: k for k in layers if k != -1}) as states:
            output = text_model(
                inputs_embeds=embeds,
                position_ids=torch.cat([order, positions])[:, None],
                visual_pos_masks=mask,
                deepstack_visual_embeds=deepstack,
                use_cache=False,
            )
        if -1 in layers:
            states[-1] = output.last_hidden_state
        result = {k: states[k][0].float().cpu() for k in layers}
        for k, rows in result.items():
            if not torch.isfinite(rows).all():
                raise ZvlError(f"Hidden layer {k} of {self.checkpoint.name} has values that are not finite. Choose the device cpu, or other weights.")
        return result


@contextlib.contextmanager
def first_layers(text_model: torch.nn.Module, count: int) -> Iterator[None]:
    """Let the language model run only its first layers, for the time of one pass."""
    every = text_model.layers
    text_model.layers = every[:count]
    try:
        yield
    finally:
        text_model.layers = every


@contextlib.contextmanager
def recorded(text_model: torch.nn.Module, wanted: dict[int, int]) -> Iterator[dict[int, torch.Tensor]]:
    """Keep the outputs of decoder layers: {index of the layer: the name to keep it under}.

    The output of layer k - 1 is the state after k layers, which is what transformers records as `hidden_states`.
    """
    states: dict[int, torch.Tensor] = {}

    def keep(name: int) -> Callable:
        def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            states[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [text_model.layers[index].register_forward_hook(keep(name)) for index, name in wanted.items()]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> Qwen3VL:
    """Load the whole of Qwen3-VL on the CPU.

    Raises:
        ZvlError: transformers is missing or too old, or a tensor is missing, unknown or misshapen; it is named.
    """
    model_class, _, _ = transformers_classes()
    return Qwen3VL(build(model_class, checkpoint, dtype), checkpoint)
