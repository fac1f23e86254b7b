"""Tensors in files: what `blend` and `statistics` read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..tensor_files import TENSOR, read, rows_of, save

if TYPE_CHECKING:
    import torch

    from ..mixing.statistics import ReferenceStatistics

__all__ = ["TENSOR", "check_widths", "load", "load_statistics", "save"]


def load(path: str) -> tuple[torch.Tensor, dict[str, str]]:
    """The tensor `hidden_states` of a file as float32 [tokens, hidden], and the file's metadata."""
    tensors, metadata = read(path)
    return rows_of(tensors, path).float(), metadata


def load_statistics(path: str, hidden: int) -> ReferenceStatistics:
    from ..mixing.statistics import ReferenceStatistics

    tensors, _ = read(path)
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


def check_widths(text_path: str, text: torch.Tensor, vl_path: str, vl: torch.Tensor) -> None:
    if text.shape[1] != vl.shape[1]:
        raise ZvlError(
            f"{text_path} is {text.shape[1]} wide, {vl_path} {vl.shape[1]}. Both have to come from models of the same "
            "width."
        )
