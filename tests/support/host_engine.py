"""The image model's side of the web UI: its own engine with a tiny text encoder, and transformers' with the same
weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import tiny
import torch
import transformers
from backend.diffusion_engine import zimage
from backend.nn.llm import llama
from backend.operations import using_forge_operations
from backend.patcher.base import ModelPatcher
from tokenizers import Tokenizer

# Its name is another one in newer web UIs.
(_TextEngine,) = (part for name, part in vars(zimage).items() if name in ("Qwen3TextProcessingEngine", "Qwen34BEngine"))
TEXT_LAYERS = 3


def _tokenizer(tokenizer: Tokenizer) -> Callable[[Any], dict]:
    """As transformers' tokenizers are called: with one text or with several."""

    def tokenize(texts: str | list[str]) -> dict:
        if isinstance(texts, str):
            return {"input_ids": tokenizer.encode(texts, add_special_tokens=False).ids}
        return {"input_ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]}

    return tokenize


def make_text_encoder(
    seed: int, hidden: int = 64, layers: int = TEXT_LAYERS
) -> tuple[torch.nn.Module, transformers.Qwen3Model]:
    """The web UI's own text encoder at a small size, and transformers' with the same weights."""
    sizes = {
        "vocab_size": tiny.EMBEDDINGS,
        "hidden_size": hidden,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
    }
    torch.manual_seed(seed)
    rope = {
        "rope_theta": 1e6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }  # for transformers 4 and 5
    plain = tiny.randomized(
        transformers.Qwen3Model(transformers.Qwen3Config(**sizes, **rope, head_dim=32, max_position_embeddings=4096))
    )
    fields = [(name, type(value), value) for name, value in sizes.items()]
    small = dataclasses.make_dataclass("Small", fields, bases=(llama.Qwen3_4BConfig,), namespace={"head_dim": 32})
    with pytest.MonkeyPatch.context() as patch, using_forge_operations(device=torch.device("cpu"), dtype=torch.float32):
        patch.setattr(llama, "Qwen3_4BConfig", small)
        encoder = llama.Qwen3_4B({})
    encoder.load_state_dict({f"model.{name}": weight.clone() for name, weight in plain.state_dict().items()})
    return encoder.eval().requires_grad_(False), plain


class ZImage(zimage.ZImage):
    """The web UI's own engine with a tiny text encoder and nothing else."""

    def __init__(self, tokenizer: Tokenizer, seed: int = 0, filename: str = "zimage.safetensors", hidden: int = 64):
        furnish(self, _TextEngine, make_text_encoder(seed, hidden), tokenizer, filename)


def furnish(engine: Any, text_engine: type, encoders: tuple, tokenizer: Tokenizer, filename: str) -> None:
    """Give an engine of the web UI's own class its text encoder, as of `make_text_encoder`, and what else is asked of
    it."""
    engine.text_encoder, engine.plain = encoders
    stage = torch.nn.ModuleDict({"qwen3": engine.text_encoder})
    cpu = torch.device("cpu")
    clip = SimpleNamespace(cond_stage_model=stage, patcher=ModelPatcher(stage, load_device=cpu, offload_device=cpu))
    shifts: list[float] = []
    engine.shifts = shifts  # what the sampler was told
    predictor = SimpleNamespace(set_parameters=lambda shift: shifts.append(shift))
    engine.forge_objects = SimpleNamespace(clip=clip, unet=SimpleNamespace(model=SimpleNamespace(predictor=predictor)))
    engine.text_processing_engine_gemma = text_engine(engine.text_encoder, _tokenizer(tokenizer))
    engine.filename = filename
    engine.extra_generation_params = {}
    engine.comments = []
    engine.is_inpaint, engine.is_wan, engine.use_shift, engine.use_distilled_cfg_scale = False, False, True, False
    engine.sd_checkpoint_info = SimpleNamespace(name_for_extra=os.path.splitext(filename)[0])


class AnotherArchitecture(ZImage):
    """A model that is not Z-Image, however much its parts look like it."""
