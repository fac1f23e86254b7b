"""Z-Image's text encoder on its own: Qwen3 from a folder or from one file, for text embeddings without an image
model."""

from __future__ import annotations

import os
from typing import Any

import torch

from ..engines.sources import Text
from ..errors import ZvlError
from ..outside import no_file, read_json, reason
from ..qwen3vl import kinds
from ..qwen3vl.config import counted
from ..qwen3vl.folders import CONFIG, CONFIG_LIMIT
from ..qwen3vl.peek import peek
from ..qwen3vl.schema import FaultError, check_text
from ..qwen3vl.tokenizer import tokenizer
from ..sequence import TEMPLATE
from .standalone_text import DTYPES, TEXT_LAYER, StandaloneTextEncoder

_ROPE_THETA = 1e6  # of Qwen3; the shapes of a file do not tell


class TextEncoderFiles:
    """A text encoder with its tokenizer.

    Args:
        path: A diffusers folder of Z-Image, a Hugging Face folder of Qwen3, or one .safetensors file of it.
        tokenizer_folder: Where its tokenizer.json lies; by default in or beside the path.
        device: A torch device's name.
        dtype: A key of DTYPES, or `auto`: as stored.

    Raises:
        ZvlError: something isn't there or isn't what it should be.
    """

    def __init__(self, path: str, tokenizer_folder: str = "", device: str = "cpu", dtype: str = "auto"):
        folder = _model_folder(path)
        self.encode = tokenizer(tokenizer_folder or _tokenizer_folder(path))
        model = from_folder(folder, dtype) if os.path.isdir(folder) else _from_file(folder, dtype)
        self.encoder = StandaloneTextEncoder(model.eval().requires_grad_(False).to(device), os.path.abspath(path))

    def text(self, prompt: str) -> Text:
        """A prompt's text embeddings, float32 [tokens, hidden], as Z-Image takes them."""
        ids = self.encode(TEMPLATE.format(prompt))
        inputs = self.encoder.embed(ids)
        return Text(prompt, tuple(ids), self.encoder.hidden_states(inputs, TEXT_LAYER, None, None), inputs)


def _model_folder(path: str) -> str:
    inner = os.path.join(path, "text_encoder")
    if os.path.isfile(os.path.join(path, "model_index.json")) and os.path.isdir(inner):
        return inner
    if not os.path.exists(path):
        raise ZvlError(
            f"--text-encoder {path}: there is nothing. Name Z-Image's folder, or a folder or file of Qwen3-4B."
        )
    return path


def _tokenizer_folder(path: str) -> str:
    if os.path.isfile(path):
        return os.path.dirname(os.path.abspath(path))
    inner = os.path.join(path, "tokenizer")
    return inner if os.path.isdir(inner) else path


def config_of(folder: str) -> dict[str, Any]:
    """The configuration of a folder's text encoder, checked.

    Raises:
        ZvlError: it is not there, or not that of a Qwen3.
    """
    try:
        config = read_json(os.path.join(folder, CONFIG), CONFIG_LIMIT)
    except (OSError, ValueError) as error:
        raise ZvlError(f"{folder} can't be loaded as a text encoder (config.json: {reason(error)}).") from error
    kind = kinds.of_config(config)
    if kind is None or config["model_type"] != "qwen3":
        raise ZvlError(f"{folder} is not a Qwen3 text encoder: it is {kind.name if kind else 'another model'}.")
    try:
        check_text(config)
    except FaultError as error:
        raise ZvlError(f"{folder} can't be loaded as a text encoder ({reason(error)}).") from error
    return dict(config)


def from_folder(folder: str, dtype: str | torch.dtype) -> Any:
    """The text encoder of a Hugging Face folder.

    Raises:
        ZvlError: it can't be loaded.
    """
    from transformers import AutoModel

    config_of(folder)
    wanted = DTYPES.get(dtype, "auto") if isinstance(dtype, str) else dtype
    try:
        return AutoModel.from_pretrained(folder, dtype=wanted, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ZvlError(f"{folder} can't be loaded as a text encoder ({reason(error)}).") from error


def _from_file(path: str, dtype: str) -> Any:
    """A Qwen3 whose configuration is told by the shapes of its tensors."""
    from safetensors.torch import load_file
    from transformers import Qwen3Config, Qwen3Model

    seen = peek([path])
    if no_file(path) or seen.kind is None or seen.problem:
        problem = f"it is {no_file(path)}" if no_file(path) else seen.problem
        raise ZvlError(f"{path} can't be read as safetensors ({problem or 'it has no tensors'}).")
    stored = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    stored.pop("lm_head.weight", None)
    try:
        vocabulary, hidden = stored["embed_tokens.weight"].shape
        (head_dim,) = stored["layers.0.self_attn.q_norm.weight"].shape
        config = Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=stored["layers.0.mlp.gate_proj.weight"].shape[0],
            num_hidden_layers=counted({key: tuple(value.shape) for key, value in stored.items()}, "layers."),
            num_attention_heads=stored["layers.0.self_attn.q_proj.weight"].shape[0] // head_dim,
            num_key_value_heads=stored["layers.0.self_attn.k_proj.weight"].shape[0] // head_dim,
            head_dim=head_dim,
            rms_norm_eps=1e-6,
            rope_theta=_ROPE_THETA,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
        )
    except KeyError as error:
        raise ZvlError(
            f"{path} is not a Qwen3 text encoder: it has no tensor {error}; it is {seen.kind.name}."
        ) from error
    except (ValueError, IndexError, ArithmeticError, FaultError) as error:
        raise ZvlError(f"{path} is not a Qwen3 text encoder ({reason(error)}).") from error
    if any(value.element_size() == 1 for value in stored.values()):
        raise ZvlError(f"{path} is stored in eight bits. Name the bf16 file, or Z-Image's diffusers folder.")
    wanted = DTYPES.get(dtype, stored["embed_tokens.weight"].dtype)
    model = Qwen3Model(config).to(wanted)
    try:
        model.load_state_dict({key: value.to(wanted) for key, value in stored.items()})
    except RuntimeError as error:
        raise ZvlError(f"{path} is not a Qwen3 text encoder ({' '.join(str(error).split())[:200]}).") from error
    return model
