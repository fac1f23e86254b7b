"""The pipeline on its own, for the command line and the tests: one model, one device, no web UI."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import torch

from .. import language, vision
from ..checkpoint import Checkpoint
from ..errors import ZvlError
from ..reference import Reference, sized
from ..sequence import Encode, Sequence
from ..splice import ImageTokens, as_qwen3vl, mrope_tables, state_at

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": torch.float32, "F16": torch.float16}
_SMALL = 10**9  # parameters up to which "auto" computes in float32 on the CPU: at most 4 GB


class StandaloneExtractor:
    """Qwen3-VL held on one device, loaded on first use.

    Args:
        device: `auto` (the first accelerator, else the CPU) or a torch device's name.
        dtype: `auto` (as stored, fp8 as bfloat16; small models on the CPU in float32) or a key of DTYPES.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", dtype: str = "auto"):
        self.checkpoint = checkpoint
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if dtype != "auto":
            self.dtype = DTYPES[dtype]
        elif self.device.type == "cpu" and checkpoint.parameters <= _SMALL:
            self.dtype = torch.float32
        else:
            self.dtype = _STORED.get(checkpoint.stored_dtype, torch.bfloat16)
        self.precision = f"{self.device} {self.dtype}"
        self._model: language.Qwen3VL | None = None
        self._tower: torch.nn.Module | None = None

    def hidden_states(self, sequence: Sequence, reference: Reference, tokens: int, layers: Iterable[int]) -> dict[int, torch.Tensor]:
        if self._model is None:
            self._model = language.load(self.checkpoint, self.dtype)
            self._model.module.to(self.device)
        return self._model.hidden_states(sequence, reference, tokens, layers)

    def image_tokens(self, reference: Reference, tokens: int) -> torch.Tensor:
        if self._tower is None:
            self._tower = vision.load(self.checkpoint, self.dtype).to(self.device)
        return vision.stacked_tokens(self._tower, sized(reference, tokens, self.checkpoint.unit))


class StandaloneTextEncoder:
    """A text encoder of transformers (Qwen3Model or alike) as splice's language model.

    Args:
        model: The model, on its device.
        name: Identifies its weights.
    """

    def __init__(self, model: torch.nn.Module, name: str):
        self.model = model
        self.layers = len(model.layers)
        self.identity = name

    @torch.inference_mode()
    def embed(self, ids: list[int]) -> torch.Tensor:
        embedding = self.model.embed_tokens
        return embedding(torch.tensor(ids, device=embedding.weight.device)).float()

    def hidden_states(self, embeds: torch.Tensor, layer: int, image: ImageTokens | None, sequence: Sequence) -> torch.Tensor:
        def forward() -> torch.Tensor:
            return self.model(inputs_embeds=embeds[None].to(self.model.embed_tokens.weight), use_cache=False).last_hidden_state

        if image is None:
            return state_at(self.model, layer, forward)
        with as_qwen3vl(self.model.layers, image, sequence.image_start, "position_embeddings", self._rotary_tables(image, sequence)):
            return state_at(self.model, layer, forward)

    def _rotary_tables(self, image: ImageTokens, sequence: Sequence) -> Callable[[tuple], tuple]:
        """transformers hands its layers (cos, sin), each [1, tokens, head_dim]."""
        config = self.model.config
        cosine, sine = mrope_tables(sequence.position_ids(), config.head_dim, _rope_theta(config), image.mrope_section)
        return lambda old: (cosine[None].to(old[0]), sine[None].to(old[1]))


def _rope_theta(config: object) -> float:
    """transformers 4 has rope_theta, transformers 5 rope_parameters."""
    return getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]


def tokenizer(folder: str) -> Encode:
    """The tokenizer of a Hugging Face folder as a function from text to ids; special tokens' text becomes special ids.

    Raises:
        ZvlError: the folder has no tokenizer.
    """
    file = os.path.join(folder, "tokenizer.json")
    if os.path.isfile(file):
        from tokenizers import Tokenizer

        try:
            loaded = Tokenizer.from_file(file)
        except Exception as error:  # tokenizers raises bare Exception
            raise ZvlError(f"{file} can't be read ({error}). Download it again.") from error
        return lambda text: loaded.encode(text, add_special_tokens=False).ids
    if os.path.isfile(os.path.join(folder, "vocab.json")) and os.path.isfile(os.path.join(folder, "merges.txt")):
        from transformers import Qwen2Tokenizer

        slow = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        return lambda text: slow(text, add_special_tokens=False)["input_ids"]
    raise ZvlError(f"There is no tokenizer.json in {folder}. Name a folder that has one with --tokenizer (any Qwen3 or Qwen3-VL folder).")
