"""Tensors in files: what `extract`, `blend`, `encode` and `statistics` read and write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ZvlError
from ..output import written

if TYPE_CHECKING:
    import torch

    from ..mixing.statistics import ReferenceStatistics

TENSOR = "hidden_states"


def load(path: str) -> tuple[torch.Tensor, dict[str, str]]:
    """The tensor `hidden_states` of a file as float32 [tokens, hidden], and the file's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            if TENSOR not in file.keys():
                raise ZvlError(
                    f"{path} has no tensor {TENSOR!r}. It has to be written by extract or blend, or in the same way."
                )
            tensor, metadata = file.get_tensor(TENSOR), file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ZvlError(f"{path} can't be read as safetensors ({error}).") from error
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or tensor.shape[0] == 0 or not tensor.is_floating_point():
        raise ZvlError(f"{path}: {TENSOR} is {tensor.dtype} {list(tensor.shape)}; float [tokens, hidden] is needed.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ZvlError(f"{path}: {TENSOR} has values that are not finite. Extract it again, in another dtype.")
    return tensor, metadata


def load_statistics(path: str, hidden: int) -> ReferenceStatistics:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..mixing.statistics import ReferenceStatistics

    try:
        tensors = load_file(path)
        mean, std, overall = (tensors[key].float() for key in ("per_dim_mean", "per_dim_std", "global_std"))
    except (OSError, SafetensorError) as error:
        raise ZvlError(f"{path} can't be read as safetensors ({error}).") from error
    except KeyError as error:
        raise ZvlError(
            f"{path} has no tensor {error}. Reference statistics hold per_dim_mean, per_dim_std and global_std."
        ) from error
    if mean.shape != (hidden,) or std.shape != (hidden,) or overall.numel() != 1:
        raise ZvlError(f"{path}: the statistics are for width {list(mean.shape)}, the embeddings are {hidden} wide.")
    return ReferenceStatistics(mean, std, float(overall))


def check_widths(text_path: str, text: torch.Tensor, vl_path: str, vl: torch.Tensor) -> None:
    if text.shape[1] != vl.shape[1]:
        raise ZvlError(
            f"{text_path} is {text.shape[1]} wide, {vl_path} {vl.shape[1]}. Both have to come from models of the same "
            "width."
        )


def save(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with written(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise ZvlError(f"{path} can't be written ({error}).") from error
