"""Weights as they are loaded, and as they should be."""

from pathlib import Path

import torch

from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.fp8 import dequantize
from zvl_ext.qwen3vl.language import Qwen3VL, load

EMBEDDING = "language_model.embed_tokens.weight"


def opened(path: Path, dtype: torch.dtype = torch.float32, *more, **options) -> Qwen3VL:
    return load(open_checkpoint(str(path)), dtype, *more, **options)


def every_weight(model: Qwen3VL, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The module's weights as they are computed with, and the embedding, which is no part of the module, as it is
    kept."""
    weights = dict(model.module.named_parameters())
    assert EMBEDDING not in weights
    for name, weight in weights.items():
        if weight.dtype == torch.float8_e4m3fn:
            weights[name] = dequantize(weight, model.module.get_submodule(name.removesuffix(".weight")).scale, dtype)
    return weights | {EMBEDDING: model.embedding.weight}


def loaded_state(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return every_weight(opened(path, dtype), dtype)


def assert_same_weights(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(got[name], value), name
