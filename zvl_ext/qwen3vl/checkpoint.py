"""An opened set of Qwen3-VL weights: what its headers tell, and how its tensors are read."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ZvlError
from ..reference import Reference, fitted_size
from ..sequence import VisionTokens

if TYPE_CHECKING:
    import torch

FP8_DTYPES = ("F8_E4M3", "F8_E5M2")  # as safetensors calls them


@dataclass(frozen=True)
class Stored:
    """One tensor in one file, known from the file's header."""

    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Checkpoint:
    """An opened set of weights; only headers have been read.

    Attributes:
        path: The folder or the file.
        name: What the panel and the infotext call it.
        config: Qwen3-VL's configuration as plain data (`text_config`, `vision_config`, token ids).
        tensors: By the name in transformers' Qwen3VLModel (`language_model.…`, `visual.…`).
        scales: fp8 scales, by the name of the tensor they belong to.
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
        """How most of the weights are stored: "BF16", "F16", "F32", "F8_E4M3" or "F8_E5M2"."""
        sizes: dict[str, int] = {}
        for stored in self.tensors.values():
            sizes[stored.dtype] = sizes.get(stored.dtype, 0) + math.prod(stored.shape)
        return max(sizes, key=sizes.__getitem__)

    @property
    def files(self) -> list[str]:
        return sorted({stored.file for stored in (*self.tensors.values(), *self.scales.values())})

    @property
    def identity(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when the weights on disk do."""
        return tuple((os.path.abspath(file), (info := os.stat(file)).st_size, info.st_mtime_ns) for file in self.files)

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

    def check_layer(self, layer: int) -> None:
        """Raise ZvlError unless the language model has that layer."""
        check_layer(layer, self.layers, self.name)

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
            raise ZvlError(
                f"{self.name}: {size} is {self.hidden_size} wide, the image model's text encoder {width}. "
                + ("Choose a Qwen3-VL-4B." if width == 2560 else "Choose a Qwen3-VL of the same width.")
            )

    def read(self, names: Iterable[str], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Read tensors in the given dtype, file by file; fp8 is multiplied with its scales.

        A tensor that is stored in `dtype` stays a view of the mapped file: no second copy is made.
        """
        from .fp8 import dequantize  # here: headers are read without torch

        for name, value, scale in self.read_stored(names):
            yield name, dequantize(value, scale, dtype) if self.is_fp8(name) else value.to(dtype)

    def read_stored(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        """Read tensors as they are stored, views of the mapped files, with the scales of those in fp8."""
        from safetensors import SafetensorError, safe_open

        from .fp8 import scale_fits

        by_file: dict[str, list[str]] = {}
        for name in names:
            by_file.setdefault(self.tensors[name].file, []).append(name)
        with contextlib.ExitStack() as stack:  # a scale may lie in another shard than its tensor
            try:
                opened = {file: stack.enter_context(safe_open(file, "pt")) for file in self.files}
            except (OSError, SafetensorError) as error:
                raise ZvlError(f"{self.name}: the weights can't be read ({error}). Download the file again.") from error
            for file, members in sorted(by_file.items()):
                for name in members:
                    value, scale = opened[file].get_tensor(self.tensors[name].key), None
                    if self.is_fp8(name) and name in self.scales:
                        scale = opened[self.scales[name].file].get_tensor(self.scales[name].key)
                        if not scale_fits(value.shape, scale):
                            raise ZvlError(
                                f"{self.name}: the scale of {name} does not fit it. Download the weights again."
                            )
                    yield name, value, scale

    def is_fp8(self, name: str) -> bool:
        return self.tensors[name].dtype in FP8_DTYPES


def check_layer(layer: int, layers: int, owner: str) -> None:
    """Raise ZvlError unless a model with that many layers, called `owner`, has this one."""
    if not -layers <= layer <= -1:
        raise ZvlError(f"Hidden layer {layer} does not exist: {owner} has layers -1 to -{layers}.")
