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
        with _first_layers(text_model, deepest), _recorded(text_model, {count + k: k for k in layers if k != -1}) as states:
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
def _first_layers(text_model: torch.nn.Module, count: int) -> Iterator[None]:
    """Let the language model run only its first layers, for the time of one pass."""
    every = text_model.layers
    text_model.layers = every[:count]
    try:
        yield
    finally:
        text_model.layers = every


@contextlib.contextmanager
def _recorded(text_model: torch.nn.Module, wanted: dict[int, int]) -> Iterator[dict[int, torch.Tensor]]:
    """Keep the outputs of decoder layers: {layer after which the state is wanted: the name to keep it under}.

    The state after k layers is the output of layer k - 1, which is what transformers records as `hidden_states`.
    """
    states: dict[int, torch.Tensor] = {}

    def keep(name: int) -> Callable:
        def hook(module: torch.nn.Module, inputs: tuple, output: torch.Tensor | tuple) -> None:
            states[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [text_model.layers[after].register_forward_hook(keep(name)) for after, name in wanted.items()]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def load(checkpoint: Checkpoint, dtype: torch.dtype) -> Qwen3VL:
    """Load weights on the CPU: the model is built without memory and filled tensor by tensor, so nothing is held twice.

    Raises:
        ZvlError: transformers is missing or too old, or a tensor is missing, unknown or misshapen; it is named.
    """
    model_class, config_class = _classes()
    config = config_class(**{k: v for k, v in checkpoint.config.items() if k not in ("architectures", "model_type", "quantization_config")})
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        module = model_class(config)
    slots = dict(module.named_parameters())
    _check_names(checkpoint, {name: tuple(slot.shape) for name, slot in slots.items()})
    for name, value in checkpoint.read(list(slots), dtype):
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))
    _fill_buffers(module, model_class, config_class, checkpoint.config)
    return Qwen3VL(module.eval().requires_grad_(False), checkpoint)


def _classes() -> tuple[type, type]:
    try:
        from transformers import Qwen3VLConfig
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel
    except ImportError as error:
        raise ZvlError(
            f"Qwen3-VL needs transformers 4.57 or newer ({error}). Update the web UI, or run: python -m pip install 'transformers>=4.57' in its environment."
        ) from error
    return Qwen3VLModel, Qwen3VLConfig


def _check_names(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]]) -> None:
    for what, names in (
        ("is missing", sorted(shapes.keys() - checkpoint.tensors.keys())),
        ("is not part of a Qwen3-VL", sorted(checkpoint.tensors.keys() - shapes.keys())),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ZvlError(f"{checkpoint.name}: the tensor {names[0]}{more} {what}. Download the weights again.")
    for name, shape in shapes.items():
        if (stored := checkpoint.tensors[name].shape) != shape:
            raise ZvlError(f"{checkpoint.name}: the tensor {name} is {list(stored)}, it should be {list(shape)}. Download the weights again.")


def _fill_buffers(module: torch.nn.Module, model_class: type, config_class: type, config: dict) -> None:
    """Give modules with computed buffers (the rotary frequencies) real ones.

    They are not in the file. They come from a second model of the same head sizes with no layers and hardly any weights,
    which does not depend on how a version of transformers calls or builds these modules.
    """
    empty = [name for name, part in module.named_modules() if any(b.is_meta for b in part.buffers(recurse=False))]
    small = {
        **{k: v for k, v in config.items() if k not in ("architectures", "model_type", "quantization_config")},
        "text_config": {**config["text_config"], "num_hidden_layers": 0, "vocab_size": 1, "pad_token_id": None, "layer_types": None},
        "vision_config": {**config["vision_config"], "depth": 0, "deepstack_visual_indexes": [], "num_position_embeddings": 1},
    }
    source = model_class(config_class(**small))
    for name in empty:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, source.get_submodule(name))
