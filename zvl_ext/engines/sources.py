"""What both engines draw on: the prompt as the host made it, the models that a host provides, and what one extraction
is about."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch

from ..hidden_layers import hidden_layers
from ..image_models import Z_IMAGE, ImageModel
from ..mixing.statistics import ReferenceStatistics
from ..options import Settings
from ..qwen3vl.checkpoint import Checkpoint
from ..qwen3vl.passes import Pass
from ..reference import Reference, References, in_order
from ..sequence import Encode, Grid, Sequence
from ..store import Store


@dataclass(frozen=True)
class ImageTokens:
    """What the vision tower makes of one reference, or of several one behind another.

    Attributes:
        tokens: float32 [N, hidden].
        deepstack: Additions for the first layers, each float32 [N, hidden].
        mrope_section: How many rotary frequencies count time, rows and columns.
    """

    tokens: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]
    mrope_section: tuple[int, int, int]


class KeysValues(NamedTuple):
    """An attention's keys and values, each [layers, key-value heads, tokens, head_dim], on the CPU."""

    keys: torch.Tensor
    values: torch.Tensor


class TextEncoder(ABC):
    """The image model's text encoder as a language model on embeddings.

    Attributes:
        layers: How many layers it has.
        identity: Names its weights; results of another one are not reused.
        state: Changes whenever its weights may have been changed, by a LoRA for instance; means something in this
            process only.
        goes_on: Whether it hands out its attention's keys and values, so that `states_behind` reads a prompt behind
            what has been read.
    """

    layers: int
    identity: str
    state: str = ""
    goes_on: bool = False

    @abstractmethod
    def embed(self, ids: list[int]) -> torch.Tensor:
        """Input embeddings [len(ids), hidden], float32."""

    @abstractmethod
    def states(
        self,
        rows: torch.Tensor,
        indices: Iterable[int],
        image: ImageTokens | None,
        sequence: Sequence | None,
        first: int = 0,
    ) -> dict[int, torch.Tensor]:
        """Hidden states of a sequence, float32 [tokens, hidden] on the CPU, by index as in transformers'
        `hidden_states`.

        Index k is the state after k layers; that after all layers has been through the final norm.

        Args:
            rows: Input embeddings [tokens, hidden], or the state at index `first`.
            indices: Larger than `first`; no layer behind the last of them runs.
            image: If given, positions are Qwen3-VL's and DeepStack's additions are made; otherwise positions are
                sequential.
        """

    def states_behind(
        self,
        rows: torch.Tensor,
        indices: Iterable[int],
        image: ImageTokens | None,
        sequence: Sequence,
        first: int = 0,
        past: KeysValues | None = None,
    ) -> tuple[dict[int, torch.Tensor], KeysValues]:
        """As `states`, of a sequence's tokens up to its fork or, with those tokens' keys and values, of the rest.

        Args:
            rows: Of these tokens alone.
            past: Those of the layers from `first` on, as far as `indices` go.

        Returns:
            The states, and these tokens' own keys and values in the layers that ran.
        """
        raise NotImplementedError

    def hidden_states(
        self, embeds: torch.Tensor, layer: int, image: ImageTokens | None, sequence: Sequence | None
    ) -> torch.Tensor:
        """The state [tokens, hidden] at a negative layer index, from input embeddings."""
        index = self.layers + layer + 1
        return self.states(embeds, [index], image, sequence)[index]


class Extractor(Protocol):
    """What a host provides: Qwen3-VL on the host's device, loaded when it is first asked.

    Attributes:
        checkpoint: The weights' headers, known without loading them.
        precision: Device, dtype and storage as text; results of another precision are not reused.
    """

    checkpoint: Checkpoint
    precision: str

    def extend(
        self,
        sequences: list[Sequence],
        references: References,
        tokens: int,
        depth: int,
        prefix: Pass | None = None,
        tails: list[Pass | None] | None = None,
    ) -> tuple[Pass, list[Pass | None]]:
        """As `language.Qwen3VL.extend`, with the layers loaded that it needs."""

    def image_tokens(self, reference: Reference, tokens: int) -> torch.Tensor:
        """The vision tower's output, float32 [1 + DeepStack additions, N, hidden] on the CPU: image tokens first."""


@dataclass(frozen=True)
class Text:
    """What the host made of one prompt.

    Attributes:
        prompt: The prompt as the host's text encoder got it.
        ids: The host's n token ids, template included.
        embeddings: float [n, hidden].
        inputs: The text encoder's input embeddings [n, hidden], emphasis included, for splice; None where the host
            keeps them.
        masked: How many of the last ids the host lets no token attend to.
        read: Whether the text encoder has read it. Where nothing of it is needed, it need not: then `embeddings` is not
            a number anywhere, of the shape and the dtype that it would have.
    """

    prompt: str
    ids: tuple[int, ...]
    embeddings: torch.Tensor
    inputs: torch.Tensor | None = None
    masked: int = 0
    read: bool = True

    @functools.cached_property
    def digest(self) -> str:
        """Of what goes into the text encoder and what comes out: it names the text encoder's weights, LoRA included."""
        return digest_of(*(tensor for tensor in (self.inputs, self.embeddings) if tensor is not None))


def digest_of(*tensors: torch.Tensor) -> str:
    """Names the numbers of some tensors, wherever and in whatever dtype they are."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class Sources:
    """What conditioning draws on.

    Attributes:
        extractor: Qwen3-VL.
        encode: The host's tokenizer, for the template's head and for texts of Qwen3-VL's own.
        statistics: Gives the text encoder's reference statistics; called only when the settings need them.
        text_encoder: Needed by engine splice.
        store: What the language model and the vision tower leave is kept here, so that a reference is read once, and a
            prompt once behind it; everything after the selection is cheap.
        say: Takes a line for the user about something that was done differently.
        every_layer: Whether engine splice keeps the states at every layer it passes: for a grid over layers. (Engine
            blend always does: it needs them to go on from.)
        model: What is conditioned.
    """

    extractor: Extractor
    encode: Encode
    statistics: Callable[[], ReferenceStatistics]
    text_encoder: TextEncoder | None
    store: Store
    say: Callable[[str], None] = lambda line: None
    every_layer: bool = False
    model: ImageModel = Z_IMAGE

    def layers(self, settings: Settings, layers: int) -> tuple[int, ...]:
        """Which layers have to be read, from the end, the shallowest first, by a model that has so many."""
        named = hidden_layers(settings).every
        return tuple(sorted({at for layer in named for at in self.model.read_at(layer, layers)}))

    @property
    def required_encoder(self) -> TextEncoder:
        """The text encoder, where it is needed."""
        if self.text_encoder is None:
            raise ValueError("engine splice needs the image model's text encoder")
        return self.text_encoder


@dataclass(frozen=True)
class Job:
    """One prompt's part of an extraction: what is read, and each reference's token budget."""

    text: Text
    sequence: Sequence
    budget: int


def seen(references: References, grids: tuple[Grid, ...], sources: Sources) -> tuple[Hashable, ...]:
    """What decides the vision tower's output."""
    looks = (each for reference, grid in zip(in_order(references), grids) for each in (reference.digest, grid))
    return (sources.extractor.checkpoint.identity, sources.extractor.precision, *looks)
