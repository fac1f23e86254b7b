"""Asking the web UI's text encoder for the form of its answer only: neither loaded nor run, its tokenizer alone works.

The web UI's own function runs as ever, whatever it does with templates, emphasis or a sampling shift. For its time the
text encoder's module answers without its weights, and the web UI's handle of it is one of an empty module. All of it is
put onto these objects, never onto a class, and taken off again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from backend.patcher.base import ModelPatcher

from .forge_encoder import language_model
from .forge_memory import take_off

_COMPUTED = (torch.float16, torch.bfloat16, torch.float32)


@contextlib.contextmanager
def unread(engine: Any) -> Iterator[None]:
    """Let what the engine encodes have its tokens and its form, and no number in it, while the context is open."""
    clip, model = engine.forge_objects.clip, language_model(engine)
    embedding = model.embed_tokens
    width, dtype = embedding.embedding_dim, _dtype(embedding.weight)

    def embed(ids: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.full((*ids.shape, width), torch.nan, dtype=dtype, device=ids.device)

    def forward(ids: Any, attention_mask: Any = None, embeds: Any = None, *args: Any, **kwargs: Any) -> tuple:
        rows, layers = embedding(ids) if embeds is None else embeds, kwargs.get("intermediate_output")
        # The last state, and that of the layer it was asked for, or those of several behind each other.
        return rows, torch.stack([rows] * len(layers), dim=1) if isinstance(layers, list) else rows

    cpu = torch.device("cpu")
    empty = ModelPatcher(torch.nn.Module(), load_device=cpu, offload_device=cpu)
    around = [module for module in clip.cond_stage_model.modules() if any(each is model for each in module.modules())]
    with contextlib.ExitStack() as stack:
        stack.callback(take_off, empty)
        stack.enter_context(_own(clip, "patcher", empty))
        stack.enter_context(_own(embedding, "forward", embed))
        stack.enter_context(_own(model, "forward", forward))
        for module in around:  # older web UIs move it by themselves
            stack.enter_context(_own(module, "to", lambda *args, **kwargs: None))
        yield


@contextlib.contextmanager
def _own(thing: Any, name: str, value: Any) -> Iterator[None]:
    """An object with an attribute of its own while the context is open; then as it was."""
    there, before = name in vars(thing), vars(thing).get(name)
    vars(thing)[name] = value
    try:
        yield
    finally:
        if there:
            vars(thing)[name] = before
        else:
            del vars(thing)[name]


def _dtype(weight: Any) -> torch.dtype:
    """What the text encoder computes in, which its embedding decides."""
    dtype = getattr(weight, "computation_dtype", weight.dtype)  # what is quantized is written out
    return dtype if dtype in _COMPUTED else torch.float32


def weights_bytes(engine: Any) -> int:
    """The bytes of the text encoder's weights; 0 where they are not known."""
    with contextlib.suppress(Exception):  # a line of help: whatever a host does differently
        return sum(tensor.nbytes for tensor in engine.forge_objects.clip.cond_stage_model.state_dict().values())
    return 0
