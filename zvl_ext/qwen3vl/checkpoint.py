"""An opened set of Qwen3-VL weights: what its headers tell, and how its tensors are read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError
from ..image_models import Z_IMAGE, ImageModel
from ..reference import Reference, fitted_size
from ..sequence import VisionTokens
from .forms import FORMS
from .pieces import Pieces, Version
from .scales import Block
from .wanted import WANTED_FOR_BLEND

if TYPE_CHECKING:
    import torch

EMBEDDING = "language_model.embed_tokens.weight"
NORM = "language_model.norm.weight"
HEAD = "lm_head.weight"  # the logits' layer, where that is not the embedding
Opened = Callable[["Stored"], Pieces]  # a tensor -> its file


@dataclass(frozen=True)
class Stored:
    """One tensor in one file, known from the file's header.

    Attributes:
        file: The file.
        key: Its name there.
        shape: Of its numbers, however they are stored.
        dtype: The form of its numbers, a name in FORMS where it can be read.
        start: The byte of the file where they begin.
        version: What the file was when its header was read.
        block: Rows and columns that share a number of its scale; None for a form without scales.
        rotation: By groups of how many inputs it was rotated; 0 where it was not.
        problem: Why it can't be read, as the middle of a line; "" where it can.
        frames: What it is put together from along the axis of time (2); it has no bytes of its own then.
    """

    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    start: int = 0
    version: Version = (0, 0)
    block: Block | None = None
    rotation: int = 0
    problem: str = ""
    frames: tuple[Stored, ...] = ()


@dataclass
class Checkpoint:
    """An opened set of weights; only headers have been read.

    Attributes:
        path: The folder or the file.
        name: What the panel and the infotext call it.
        config: Qwen3-VL's configuration as plain data (`text_config`, `vision_config`, token ids).
        tensors: By the name in transformers' Qwen3VLModel (`language_model.…`, `visual.…`). Those of the language model
            may be missing, or in a form that can't be read: a vision tower is enough for engine splice.
        scales: Scales of tensors in eight bits, by the name of the tensor they belong to.
    """

    path: str
    name: str
    config: dict[str, Any]
    tensors: dict[str, Stored] = field(repr=False)
    scales: dict[str, Stored] = field(repr=False)

    @property
    def hidden_size(self) -> int:
        size: int = self.config["text_config"]["hidden_size"]
        return size

    @property
    def layers(self) -> int:
        count: int = self.config["text_config"]["num_hidden_layers"]
        return count

    @property
    def unit(self) -> int:
        """Side of one image token in pixels (32)."""
        vision: dict[str, int] = self.config["vision_config"]
        return vision.get("patch_size", 16) * vision.get("spatial_merge_size", 2)

    @property
    def vision_tokens(self) -> VisionTokens:
        get = self.config.get
        return VisionTokens(
            get("vision_start_token_id", VisionTokens.start),
            get("image_token_id", VisionTokens.image),
            get("vision_end_token_id", VisionTokens.end),
        )

    @property
    def stored_dtype(self) -> str:
        """The form in which most of the weights are stored, such as "BF16", "F8_E4M3" or "Q4_K"."""
        sizes: dict[str, int] = {}
        for stored in self.tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + math.prod(stored.shape)
        return max(sizes, key=sizes.__getitem__)

    @property
    def fingerprint(self) -> str:
        """Names the language model, whatever its file is called and however its matrices are stored: of the weight of
        its last norm, which no form of storage changes.

        Raises:
            ZvlError: it can't be read.
        """
        import torch

        ((_, weight),) = self.read([NORM], torch.float32)
        return hashlib.sha256(weight.numpy().tobytes()).hexdigest()[:16]

    @property
    def files(self) -> list[str]:
        return sorted({stored.file for stored in (*self.tensors.values(), *self.scales.values())})

    @property
    def identity(self) -> tuple[object, ...]:
        """Changes when the weights on disk do, or what config.json says of them: as they were when this was opened."""
        versions = {stored.file: stored.version for stored in (*self.tensors.values(), *self.scales.values())}
        config = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        return (*((os.path.abspath(file), *versions[file]) for file in sorted(versions)), config)

    @property
    def parameters(self) -> int:
        return self.count("")

    def count(self, prefix: str) -> int:
        """Parameters of the tensors below a prefix, such as `visual.`."""
        return sum(math.prod(stored.shape) for name, stored in self.tensors.items() if name.startswith(prefix))

    @property
    def tokenizer_folder(self) -> str:
        """Where a tokenizer would lie beside the weights."""
        return self.path if os.path.isdir(self.path) else os.path.dirname(os.path.abspath(self.path))

    def grid(self, reference: Reference, tokens: int) -> tuple[int, int]:
        """Rows and columns of image tokens that a reference becomes under a budget of tokens."""
        width, height = fitted_size(*reference.image.size, tokens, self.unit)
        return height // self.unit, width // self.unit

    def check_layer(self, layer: int, model: ImageModel = Z_IMAGE) -> None:
        """Raise ZvlError unless there is a language model that can be read, and it has what an image model reads at
        that layer: for Z-Image the layer itself."""
        self.require_language()
        model.check_layer(layer, self.layers, self.name)

    def depth(self, layer: int) -> int:
        """How many layers of the language model have to run for a hidden layer.

        Raises:
            ZvlError: it has no such layer.
        """
        self.check_layer(layer)
        return self.layers + layer + 1

    def require_width(self, width: int) -> None:
        """Raise ZvlError unless the hidden states fit text embeddings of that width."""
        if self.hidden_size != width:
            size = {2048: "Qwen3-VL-2B", 2560: "Qwen3-VL-4B", 4096: "Qwen3-VL-8B"}.get(self.hidden_size, "this model")
            other = "Choose a Qwen3-VL-4B" if width == 2560 else "Choose a Qwen3-VL of the same width"
            raise ZvlError(
                f"{self.name}: {size} is {self.hidden_size} wide, the image model's text encoder {width}. {other}, or "
                "in engine blend a projection, which `zvl fit projection` writes."
            )

    def require_language(self) -> None:
        """Raise ZvlError unless there is a language model that can be read, too: engine blend reads with it."""
        if EMBEDDING not in self.tensors:
            raise ZvlError(
                f"{self.name} has no language model: it serves engine splice. For engine blend {WANTED_FOR_BLEND}."
            )
        problems = (stored.problem for own, stored in self.tensors.items() if own != HEAD)
        if problem := next(filter(None, problems), ""):
            raise ZvlError(
                f"{self.name}: {problem}. Engine splice can use the file. For engine blend {WANTED_FOR_BLEND}."
            )

    @property
    def head(self) -> str:
        """The tensor that makes logits of hidden states: a layer of its own, or the input embedding used once more, as
        in all Qwen3-VL up to 4B."""
        return HEAD if HEAD in self.tensors else EMBEDDING

    def require_words(self) -> None:
        """Raise ZvlError unless a text can be written with it: there is a whole language model that can be read."""
        if EMBEDDING not in self.tensors:
            raise ZvlError(
                f"{self.name} is a vision tower alone: the language model, which describes, is missing. To describe "
                f"a reference {WANTED_FOR_BLEND}."
            )
        self.require_language()
        head = self.tensors[self.head]
        problem = head.problem
        if not problem and self.head == EMBEDDING and not self.config.get("tie_word_embeddings", True):
            problem = f"the tensor {HEAD} is missing, and its configuration says that it has one of its own"
        if not problem and head.shape != (wanted := self.tensors[EMBEDDING].shape):
            problem = f"the tensor {self.head} is {list(head.shape)}, it should be {list(wanted)}"
        if problem:
            raise ZvlError(f"{self.name}: {problem}. To describe a reference {WANTED_FOR_BLEND}.")

    def read(self, names: Iterable[str], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Read tensors in the given dtype, file by file, whatever form they are stored in."""
        for name, value, scale in self.read_stored(names):
            yield name, self._numbers(self.tensors[name], value, scale, dtype)

    def read_stored(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Read tensors as they are stored (what GGUF has quantized as float32), with the scales of those in eight bits.

        Each is a copy in memory of its own: what happens to the file later does not reach it.

        Raises:
            ZvlError: a tensor's form can't be read, or a file can't, or has been changed since it was opened.
        """
        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        with self._open() as opened:  # a scale may lie in another shard than its tensor
            for _, members in sorted(by_file.items()):
                for name in members:
                    stored = self.tensors[name]
                    if stored.problem:
                        raise ZvlError(f"{self.name}: {stored.problem}.")
                    scale = self.scales[name] if self.is_packed(name) and name in self.scales else None
                    yield name, _read(stored, opened), None if scale is None else _read(scale, opened)

    def rows(self, name: str, rows: list[int], dtype: torch.dtype) -> torch.Tensor:
        """Some rows of a matrix, [len(rows), columns]: nothing else of it is read."""
        import torch

        stored, wanted = self.tensors[name], sorted(set(rows))
        form, columns = FORMS[stored.dtype], stored.shape[1]
        size = columns // form.numbers * form.bytes
        raw = torch.empty(len(wanted), size, dtype=torch.uint8)
        scale: torch.Tensor | None = None
        with self._open() as opened:
            for row, target in zip(wanted, raw.numpy()):
                opened(stored).read_into(stored.start + row * size, target.data)
            if name in self.scales and stored.block:
                scale = _read(self.scales[name], opened)
        values = form.values(raw.flatten(), (len(wanted), columns))
        block = stored.block
        if scale is not None and block and scale.numel() > 1:
            scale = scale.reshape(-(-stored.shape[0] // block[0]), -1)[[row // block[0] for row in wanted]]
            block = (1, block[1])
        values = self._numbers(replace(stored, block=block), values, scale, dtype)
        place = {row: at for at, row in enumerate(wanted)}
        return values[[place[row] for row in rows]]

    def is_packed(self, name: str) -> bool:
        """Whether a tensor is stored in a byte for each number, with scales or without."""
        form = FORMS.get(self.tensors[name].dtype)
        return form is not None and form.packed

    def _numbers(
        self, stored: Stored, value: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        import torch

        from .fp8 import dequantize  # here: headers are read without torch
        from .rotation import rotate

        if not stored.rotation:
            return dequantize(value, scale, dtype, stored.block)
        return rotate(dequantize(value, scale, torch.float32, stored.block), stored.rotation).to(dtype)

    @contextlib.contextmanager
    def _open(self) -> Iterator[Opened]:
        """The files, opened as they are asked for, and checked at the end: they are what they were."""
        opened: dict[str, Pieces] = {}
        with contextlib.ExitStack() as stack:

            def of(stored: Stored) -> Pieces:
                if stored.file not in opened:
                    opened[stored.file] = stack.enter_context(Pieces(stored.file, self.name, stored.version))
                return opened[stored.file]

            yield of


def _read(stored: Stored, opened: Opened) -> torch.Tensor:
    """One tensor, as it is stored."""
    import torch

    if stored.frames:
        return torch.stack([_read(frame, opened) for frame in stored.frames], dim=2)
    form = FORMS[stored.dtype]
    raw = torch.empty(math.prod(stored.shape) // form.numbers * form.bytes, dtype=torch.uint8)
    opened(stored).read_into(stored.start, raw.numpy().data)
    return form.values(raw, stored.shape)


def own_head_only(tensors: dict[str, Stored], config: dict[str, Any]) -> dict[str, Stored]:
    """The tensors without a logits' layer that is none: the configuration says that the embedding is used for it, or
    says nothing, and the tensor can't be one."""
    tied, head, embedding = config.get("tie_word_embeddings"), tensors.get(HEAD), tensors.get(EMBEDDING)
    if tied is None and head is not None and embedding is not None:
        tied = bool(head.problem) or head.shape != embedding.shape
    return {own: stored for own, stored in tensors.items() if own != HEAD or tied is False}


def readable_shapes(tensors: dict[str, Stored]) -> dict[str, tuple[int, ...]]:
    """Shapes that a configuration can be told from: without the language model's, where that can't be read."""
    spoiled = any(own.startswith("language_model.") and stored.problem for own, stored in tensors.items())
    return {own: stored.shape for own, stored in tensors.items() if own.startswith("visual.") or not spoiled}
