"""Tensors in files: what `extract`, `blend`, `encode` and `statistics` read and write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..output import written
from ..outside import read_regular, reason

if TYPE_CHECKING:
    import torch

    from ..mixing.statistics import ReferenceStatistics

TENSOR = "hidden_states"
_LIMIT = 2**28  # bytes of a file; the longest conditioning has 10 MiB


def load(path: str) -> tuple[torch.Tensor, dict[str, str]]:
    """The tensor `hidden_states` of a file as float32 [tokens, hidden], and the file's metadata."""
    tensors, metadata = _read(path)
    if TENSOR not in tensors:
        raise ZvlError(
            f"{path} has no tensor {TENSOR!r}. It has to be written by extract or blend, or in the same way."
        )
    tensor = tensors[TENSOR]
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or 0 in tensor.shape or not tensor.is_floating_point():
        raise ZvlError(f"{path}: {TENSOR} is {tensor.dtype} {list(tensor.shape)}; float [tokens, hidden] is needed.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ZvlError(f"{path}: {TENSOR} has values that are not finite. Extract it again, in another dtype.")
    return tensor, metadata


def load_statistics(path: str, hidden: int) -> ReferenceStatistics:
    from ..mixing.statistics import ReferenceStatistics

    tensors, _ = _read(path)
    try:
        mean, std, overall = (tensors[key].float() for key in ("per_dim_mean", "per_dim_std", "global_std"))
    except KeyError as error:
        raise ZvlError(
            f"{path} has no tensor {error}. Reference statistics hold per_dim_mean, per_dim_std and global_std."
        ) from error
    if mean.shape != (hidden,) or std.shape != (hidden,) or overall.numel() != 1:
        raise ZvlError(f"{path}: the statistics are for width {list(mean.shape)}, the embeddings are {hidden} wide.")
    if not all(values.isfinite().all() for values in (mean, std, overall)) or std.min() < 0 or overall.min() < 0:
        raise ZvlError(
            f"{path}: the statistics are not finite, or a standard deviation is below 0. Let statistics write them "
            "again."
        )
    return ReferenceStatistics(mean, std, float(overall))


def _read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata. Read, not mapped: what happens to the file later does not
    matter."""
    from safetensors.torch import load as parse

    try:
        data = read_regular(path, _LIMIT)
        tensors = parse(data)  # which also checks the header
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # damaged files fail in many ways
        raise ZvlError(f"{path} can't be read as safetensors ({reason(error)}).") from error
    return tensors, header.get("__metadata__") or {}


def check_widths(text_path: str, text: torch.Tensor, vl_path: str, vl: torch.Tensor) -> None:
    if text.shape[1] != vl.shape[1]:
        raise ZvlError(
            f"{text_path} is {text.shape[1]} wide, {vl_path} {vl.shape[1]}. Both have to come from models of the same "
            "width."
        )


def save(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; never one with values that are not finite."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ZvlError(f"{path} is not written: it would have values that are not finite. Choose another dtype.")
    with written(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise ZvlError(f"{path} can't be written ({error}).") from error
