"""Building a transformers module from an opened checkpoint, without holding anything twice."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..errors import ZvlError
from .fp8 import to_fp8
from .linear import Linear, adopt
from .scales import Block

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .modules import VisionTower, VLModel

# A tensor's name in the checkpoint -> where it belongs: (module, parameter).
Slots = dict[str, tuple[torch.nn.Module, str]]
Built = TypeVar("Built", bound=torch.nn.Module)


def transformers_classes() -> tuple[type[VLModel], type[VisionTower], type[Any]]:
    """transformers' Qwen3VLModel, Qwen3VLVisionModel and Qwen3VLConfig, imported on first use.

    Raises:
        ZvlError: transformers is missing or too old.
    """
    try:
        from transformers import Qwen3VLConfig
        from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel, Qwen3VLVisionModel
    except ImportError as error:
        raise ZvlError(
            f"Qwen3-VL needs transformers 4.57 or newer ({error}). Update the web UI, or run: python -m pip install "
            "'transformers>=4.57' in its environment."
        ) from error
    return Qwen3VLModel, Qwen3VLVisionModel, Qwen3VLConfig


def config_object(config: dict[str, Any]) -> Any:
    """transformers' configuration from a checkpoint's plain data."""
    *_, config_class = transformers_classes()
    given = {key: value for key, value in config.items() if key != "model_type"}
    made = config_class(**copy.deepcopy(given))  # version 5 writes into what it is given
    made._attn_implementation = "sdpa"
    made.vision_config._attn_implementation = "sdpa"
    return made


def build(
    model_class: type[Built], checkpoint: Checkpoint, dtype: torch.dtype, prefix: str = "", section: str = ""
) -> Built:
    """A module filled tensor by tensor from the checkpoint, on the CPU.

    Args:
        model_class: Qwen3VLModel, or the class of one of its parts.
        prefix: The part's place in Qwen3VLModel, such as `visual.`; "" for the whole. Only tensors below it are read.
        section: The part's section of the configuration, such as `vision_config`; "" for the whole.

    Raises:
        ZvlError: a tensor is missing or misshapen; it is named.
    """
    module = blank(model_class, checkpoint, prefix, section)
    fill(slots(module, prefix), checkpoint, dtype)
    return module


def blank(model_class: type[Built], checkpoint: Checkpoint, prefix: str = "", section: str = "") -> Built:
    """As `build`, with parameters that have a shape and no memory: `fill` gives them theirs."""

    def made(data: dict[str, Any]) -> Built:
        config = config_object(data)
        return model_class(getattr(config, section) if section else config)

    try:
        with torch.device("meta"):
            module = made(checkpoint.config)
    except (ArithmeticError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ZvlError(
            f"{checkpoint.name}: its configuration does not describe a Qwen3-VL ({error}). Download config.json again."
        ) from error
    _check_names(checkpoint, {prefix + name: tuple(slot.shape) for name, slot in module.named_parameters()}, prefix)
    # Computed buffers (the rotary frequencies) are not in the file. They come from a second module of the same head
    # sizes with hardly any weights, which does not depend on how a version of transformers calls or builds the parts
    # that hold them.
    empty = [name for name, part in module.named_modules() if any(b.is_meta for b in part.buffers(recurse=False))]
    if empty:
        small = made(smallest(checkpoint.config))
        for name in empty:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, small.get_submodule(name))
    adopt(module)
    return module.eval().requires_grad_(False)


def slots(module: torch.nn.Module, prefix: str) -> Slots:
    """Where each tensor below a prefix of the checkpoint belongs in a module that stands at that place."""
    return {
        prefix + name: (module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name, _ in module.named_parameters()
    }


def fill(places: Slots, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Read tensors into their places, in the given dtype."""
    for name, value in checkpoint.read(places, dtype):
        _set(*places[name], value)


def fill_layers(layers: dict[str, torch.nn.Module], checkpoint: Checkpoint, dtype: torch.dtype, fp8: bool) -> None:
    """Read modules (by their prefixes) whose matrices stay in eight bits where they are stored so.

    Args:
        dtype: Of everything else, and what is computed in.
        fp8: Bring matrices that are stored in another way to fp8.
    """
    places = {name: place for prefix, layer in layers.items() for name, place in slots(layer, prefix).items()}
    packed = {
        name: place
        for name, place in places.items()
        if isinstance(place[0], Linear) and place[1] == "weight" and (fp8 or checkpoint.is_packed(name))
    }
    fill({name: place for name, place in places.items() if name not in packed}, checkpoint, dtype)
    other = [name for name in packed if not checkpoint.is_packed(name)]
    for name, value in checkpoint.read(other, torch.float32):
        _keep(places[name], *to_fp8(value))
    for name, value, scale in checkpoint.read_stored(packed.keys() - set(other)):
        _keep(places[name], value, scale, checkpoint.tensors[name].block, checkpoint.tensors[name].rotation)


def _keep(
    place: tuple[torch.nn.Module, str],
    value: torch.Tensor,
    scale: torch.Tensor | None,
    block: Block | None = None,
    rotation: int = 0,
) -> None:
    """Give a linear layer a weight in eight bits, and what that means."""
    layer, leaf = place
    _set(layer, leaf, value)
    layer.register_buffer("scale", scale)
    if isinstance(layer, Linear):
        layer.block, layer.rotation = block, rotation


def _set(owner: torch.nn.Module, leaf: str, value: torch.Tensor) -> None:
    setattr(owner, leaf, torch.nn.Parameter(value, requires_grad=False))


def smallest(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with no layers and a vocabulary of one."""
    return {
        **config,
        "text_config": {
            **config["text_config"],
            "num_hidden_layers": 0,
            "vocab_size": 1,
            "pad_token_id": None,
            "layer_types": None,
        },
        "vision_config": {
            **config["vision_config"],
            "depth": 0,
            "deepstack_visual_indexes": [],
            "num_position_embeddings": 1,
        },
    }


_STACKS = ("language_model.layers.", "visual.blocks.", "visual.deepstack_merger_list.")


def _check_names(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], prefix: str) -> None:
    """What the module has has to be there. What it has no place for is passed over, but for layers behind its last."""
    stored = {name for name in checkpoint.tensors if name.startswith(prefix)}
    places = {_layer(name) for name in shapes}
    for what, names in (
        ("is missing", sorted(shapes.keys() - stored)),
        ("is of a layer that its configuration does not have", sorted(n for n in stored if _layer(n) not in places)),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise ZvlError(f"{checkpoint.name}: the tensor {names[0]}{more} {what}. Get the weights again.")
    for name, shape in shapes.items():
        if (found := checkpoint.tensors[name].shape) != shape:
            raise ZvlError(
                f"{checkpoint.name}: the tensor {name} is {list(found)}, it should be {list(shape)}. Get the weights "
                "again."
            )


def _layer(name: str) -> str:
    """The layer that a tensor belongs to, or is foreign to; "" where it stands outside of all stacks."""
    stack = next((stack for stack in _STACKS if name.startswith(stack)), "")
    return stack and stack + name[len(stack) :].partition(".")[0]
