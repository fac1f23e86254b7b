"""How much of the attention a reference gets in diffusers' Z-Image, measured while a picture is made; the picture stays
as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..attention import filling
from ..attention_shares import AttentionShares, groups_of, shares
from ..conditioning import Conditioning
from ..errors import ZvlError

_UNSEEN = (
    "The image model's attention runs in a way that Z-Image VL can't watch, so its shares can't be measured. Let "
    "diffusers use PyTorch's own attention."
)


@contextlib.contextmanager
def watched(transformer: torch.nn.Module, conditioning: Conditioning, found: AttentionShares | None) -> Iterator[None]:
    """Measure the shares of the first picture of a batch in each main block at each step, while the context is open.

    Args:
        transformer: diffusers' ZImageTransformer2DModel. It is called once for each step.
        conditioning: Of that picture.
        found: Gets what is measured; None: nothing is touched.

    Raises:
        ZvlError: not all of it could be measured.
    """
    if found is None:
        yield
        return
    found.blocks, found.references = len(transformer.layers), max(1, len(conditioning.parts))  # type: ignore[arg-type]
    watch = _Watch(conditioning.owners, found)
    handles = [transformer.register_forward_pre_hook(watch.begin, with_kwargs=True)]
    for block, layer in enumerate(transformer.layers):  # type: ignore[arg-type]
        handles.append(layer.attention.register_forward_pre_hook(watch.block(block)))
        handles.append(layer.attention.register_forward_hook(watch.over))
    try:
        with watch:
            yield
    finally:
        for handle in handles:
            handle.remove()
    if not found.whole:
        raise ZvlError(_UNSEEN)


class _Watch(TorchFunctionMode):
    """Sees every call of PyTorch's attention, with the very queries and keys that it is made with."""

    def __init__(self, owners: torch.Tensor, found: AttentionShares):
        super().__init__()
        self._owners, self._found = owners, found
        self._step, self._block = -1, -1
        self._patches = self._picture = 0  # rows of the picture, without and with those that fill it up

    def begin(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frames, height, width = args[0][0].shape[-3:]
        self._patches = frames * (height // 2) * (width // 2)
        self._picture = self._patches + filling(self._patches)
        self._step += 1

    def block(self, number: int) -> Any:
        def begins(module: Any, args: tuple[Any, ...]) -> None:
            self._block = number

        return begins

    def over(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        self._block = -1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention and self._block >= 0:
            block, self._block = self._block, -1  # what else a block attends to is not its own attention
            self._measure(block, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _measure(
        self,
        block: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Queries and keys are [batch, heads, rows, width]; the picture's rows stand before the caption's."""
        groups = groups_of(self._owners, key.shape[-2], self._picture)
        bias = attn_mask
        if bias is not None:
            while bias.ndim > 3:
                bias = bias[0]
            bias = bias[..., : self._patches, :] if bias.shape[-2] > 1 else bias
        of_picture = query[0, :, : self._patches]
        count = self._found.references + 1
        self._found.add(self._step, block, shares(of_picture, key[0], groups, count, bias, scale))
