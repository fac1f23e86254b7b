"""A language model's layers for the time of one pass: run some of them only, watch them, change what goes in and
out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from .modules import Layered

Hook = Callable[[torch.nn.Module, tuple[Any, ...], Any], Any]  # module, inputs and output: what becomes of the output


@contextlib.contextmanager
def layers_between(text_model: Layered, first: int, end: int) -> Iterator[None]:
    """Let a language model run only some of its layers, for the time of one pass."""
    every = text_model.layers
    text_model.layers = every[first:end]
    try:
        yield
    finally:
        text_model.layers = every


@contextlib.contextmanager
def watched(layers: Iterable[torch.nn.Module], check: Callable[[], None]) -> Iterator[None]:
    """Have a check called before each layer while the context is open: what it raises ends the pass between layers."""

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        check()

    handles = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def recorded(text_model: Layered, wanted: dict[int, int]) -> Iterator[dict[int, torch.Tensor]]:
    """Keep the outputs of decoder layers: {index of the layer: the name to keep it under}.

    The output of layer k - 1 is the state after k layers, which is what transformers records as `hidden_states`.
    """
    states: dict[int, torch.Tensor] = {}

    def keep(name: int) -> Hook:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            states[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [text_model.layers[index].register_forward_hook(keep(name)) for index, name in wanted.items()]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replaced_argument(layers: Iterable[torch.nn.Module], name: str, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Replace one keyword argument of every layer while the context is open."""

    def hook(
        module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, name: replace(kwargs[name])}

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def added_after(
    layers: Iterable[torch.nn.Module], additions: tuple[torch.Tensor, ...], positions: list[int]
) -> Iterator[None]:
    """Add DeepStack's rows to the output of the first layers, at these positions, while the context is open."""

    def adding(rows: torch.Tensor) -> Hook:
        def hook(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, positions] += rows.to(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [layer.register_forward_hook(adding(rows)) for layer, rows in zip(layers, additions)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
