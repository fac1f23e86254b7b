"""LoRAs in diffusers' Z-Image, through peft."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError, shown
from ..loras import DOWN, UP, Named, read_lora

if TYPE_CHECKING:
    import torch

_PREFIX = "transformer."  # of diffusers' own names
NEEDED = "Install it with: python -m pip install --no-deps peft accelerate psutil"


def add_loras(pipeline: Any, loras: Sequence[Named]) -> None:
    """Let LoRAs act on a pipeline's image model from now on. Those of strength 0 are not even read.

    Args:
        pipeline: diffusers' ZImagePipeline.

    Raises:
        ZvlError: peft is not there, or a file can't be read or is not about this image model. Nothing is added then.
    """
    acting = [lora for lora in loras if lora.strength]
    if not acting:
        return
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ZvlError(f"A LoRA needs peft, which is not there. {NEEDED}") from error
    every = [_converted(pipeline, lora) for lora in acting]
    names = [f"lora_{number}" for number in range(len(acting))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of the first one, where there are several
        for name, tensors in zip(names, every):
            pipeline.load_lora_weights(tensors, adapter_name=name)
    pipeline.set_adapters(names, [lora.strength for lora in acting])
    pipeline.transformer.requires_grad_(False)


@contextlib.contextmanager
def added_loras(pipeline: Any, loras: Sequence[Named]) -> Iterator[None]:
    """As `add_loras`, for a while: the image model is as it was afterwards.

    Args:
        pipeline: It has no others.
    """
    add_loras(pipeline, loras)
    try:
        yield
    finally:
        if any(lora.strength for lora in loras):
            pipeline.unload_lora_weights()


@contextlib.contextmanager
def without_loras(transformer: Any) -> Iterator[None]:
    """Let diffusers' image model be as if no LoRA had been added to it, for a while."""
    if not getattr(transformer, "_hf_peft_config_loaded", False):
        yield
        return
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def _converted(pipeline: Any, lora: Named) -> dict[str, torch.Tensor]:
    """A LoRA's tensors under diffusers' names, each of which fits a layer."""
    read = read_lora(lora.path)
    try:
        tensors: dict[str, torch.Tensor] = pipeline.lora_state_dict(read)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ZvlError(
            f"The LoRA {shown(lora.name)} is of a kind that diffusers doesn't know for Z-Image. Convert it, or update "
            "diffusers."
        ) from error
    layers = dict(pipeline.transformer.named_modules())
    for name, down in tensors.items():
        if name.endswith(UP) and name.removesuffix(UP) + DOWN in tensors:
            continue
        layer = layers.get(name.removeprefix(_PREFIX).removesuffix(DOWN))
        up = tensors.get(name.removesuffix(DOWN) + UP)
        if not name.endswith(DOWN) or layer is None or up is None or not hasattr(layer, "weight"):
            raise ZvlError(f"The LoRA {shown(lora.name)} is not for this image model: it has none of {shown(name)}.")
        if (up.shape[0], down.shape[1]) != tuple(layer.weight.shape) or up.shape[1] != down.shape[0]:
            there = "{} × {}".format(*layer.weight.shape)
            raise ZvlError(
                f"The LoRA {shown(lora.name)} is for an image model of another size: {shown(name)} changes "
                f"{up.shape[0]} × {down.shape[1]} weights, and here there are {there}."
            )
    return tensors
