"""The splice engine: Qwen3-VL's image tokens read by the image model's own text encoder.

The vision tower's tokens are put between the text encoder's own input embeddings, behind the template's head. The text
encoder then runs on embeddings, with one of two ways to count positions:

- `sequential`: one position after another, as the text encoder counts words. Nothing of the text encoder is touched.
- `mrope`: time, row and column as in Qwen3-VL, and DeepStack's additions after the first layers. The rotary tables are
  replaced and the additions made by hooks on the layers, for the time of one pass.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .language import layers_between, recorded
from .sequence import Sequence


@dataclass(frozen=True)
class ImageTokens:
    """What the vision tower makes of one reference.

    Attributes:
        tokens: float32 [N, hidden].
        deepstack: Additions for the first layers, each float32 [N, hidden].
        mrope_section: How many rotary frequencies count time, rows and columns.
    """

    tokens: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    mrope_section: tuple[int, int, int]


class TextEncoder(ABC):
    """The image model's text encoder as a language model on embeddings.

    Attributes:
        layers: How many layers it has.
        identity: Names its weights; results of another one are not reused.
        state: Changes whenever its weights may have been changed, by a LoRA for instance; means something in this process only.
    """

    layers: int
    identity: str
    state: str = ""

    @abstractmethod
    def embed(self, ids: list[int]) -> torch.Tensor:
        """Input embeddings [len(ids), hidden], float32."""

    @abstractmethod
    def states(
        self, rows: torch.Tensor, indices: Iterable[int], image: ImageTokens | None, sequence: Sequence | None, first: int = 0
    ) -> dict[int, torch.Tensor]:
        """Hidden states of a sequence, float32 [tokens, hidden] on the CPU, by index as in transformers' `hidden_states`.

        Index k is the state after k layers; that after all layers has been through the final norm.

        Args:
            rows: Input embeddings [tokens, hidden], or the state at index `first`.
            indices: Larger than `first`; no layer behind the last of them runs.
            image: If given, positions are Qwen3-VL's and DeepStack's additions are made; otherwise positions are sequential.
        """

    def hidden_states(self, embeds: torch.Tensor, layer: int, image: ImageTokens | None, sequence: Sequence | None) -> torch.Tensor:
        """The state [tokens, hidden] at a negative layer index, from input embeddings."""
        index = self.layers + layer + 1
        return self.states(embeds, [index], image, sequence)[index]


def embeddings(text: torch.Tensor, system: torch.Tensor | None, ends: torch.Tensor, image: torch.Tensor, head: int) -> torch.Tensor:
    """The input embeddings of the whole sequence: system, head, vision_start, image, vision_end, the rest of the text.

    Args:
        text: The host's own input embeddings [n, hidden], with whatever emphasis has done to them.
        system: Those of a system text in front, or None.
        ends: Those of vision_start and vision_end, [2, hidden].
        image: Image tokens [N, hidden].
        head: How many text rows stand before the vision block.
    """
    parts = [text[:head], ends[:1], image.to(text), ends[1:], text[head:]]
    return torch.cat(parts if system is None else [system, *parts])


def mrope_tables(positions: torch.Tensor, head_dim: int, theta: float, section: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of interleaved MRoPE, float32 [tokens, head_dim], both halves alike (Qwen3-VL's rotary embedding).

    Args:
        positions: [3, tokens]: time, row, column.
        section: How many of the head_dim / 2 frequencies belong to each of the three; rows and columns take every third
            frequency from the second and the third on, time has the others.
    """
    inverse = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = positions.float()[..., None].cpu() * inverse  # [3, tokens, head_dim / 2]
    mixed = angles[0].clone()
    for axis in (1, 2):
        mixed[:, axis : section[axis] * 3 : 3] = angles[axis][:, axis : section[axis] * 3 : 3]
    both = torch.cat([mixed, mixed], dim=-1)
    return both.cos(), both.sin()


@torch.inference_mode()
def states_at(model: torch.nn.Module, first: int, indices: Iterable[int], forward: Callable[[], torch.Tensor]) -> dict[int, torch.Tensor]:
    """One pass of a text encoder over the layers from `first` on, no deeper than needed.

    Args:
        model: Has `layers`.
        indices: As in transformers' `hidden_states`, larger than `first`.
        forward: Calls the model; returns its last state after the final norm, [1, tokens, hidden].

    Returns:
        float32 [tokens, hidden] on the CPU, by index.
    """
    indices, count = set(indices), len(model.layers)
    with layers_between(model, first, max(indices)), recorded(model, {k - 1 - first: k for k in indices if k < count}) as states:
        last = forward()
    if count in indices:
        states[count] = last
    return {k: state[0].float().cpu() for k, state in states.items()}


@contextlib.contextmanager
def as_qwen3vl(layers: Any, image: ImageTokens, start: int, argument: str, tables: Callable[[Any], Any]) -> Iterator[None]:
    """Let a text encoder's layers count positions as Qwen3-VL does and take DeepStack's additions, while the context is open.

    Args:
        start: First image position.
        argument: The keyword under which the layers get their rotary tables.
        tables: MRoPE's tables in the form of those it is given.
    """
    with replaced_argument(layers, argument, tables), added_after(layers, image.deepstack, start):
        yield


@contextlib.contextmanager
def replaced_argument(layers: Any, name: str, replace: Callable[[Any], Any]) -> Iterator[None]:
    """Replace one keyword argument of every layer while the context is open."""

    def hook(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, name: replace(kwargs[name])}

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def added_after(layers: Any, additions: tuple[torch.Tensor, ...], start: int) -> Iterator[None]:
    """Add DeepStack's rows to the output of the first layers, from position `start` on, while the context is open."""

    def adding(rows: torch.Tensor) -> Callable:
        def hook(module: torch.nn.Module, inputs: tuple, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, start : start + rows.shape[0]] += rows.to(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [layer.register_forward_hook(adding(rows)) for layer, rows in zip(layers, additions)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
