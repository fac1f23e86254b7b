"""Named tensors in safetensors files: read whole and checked, written whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ZvlError
from .output import written
from .outside import parse_json, read_regular, reason

if TYPE_CHECKING:
    import torch

TENSOR = "hidden_states"  # the rows in a file that holds one tensor
LIMIT = 2**28  # bytes of a file; the longest conditioning has 10 MiB
_HEADER = 2**20  # bytes of a header; that of a conditioning has a few thousand


def read(path: str, limit: int = LIMIT) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its metadata. Read, not mapped: what happens to the file later does not
    matter.

    Args:
        limit: Bytes that the file may have.

    Raises:
        ZvlError: it can't be read, is none, or has a header that is longer than any of ours.
    """
    from safetensors.torch import load

    try:
        data = read_regular(path, limit)
        length = int.from_bytes(data[:8], "little")
        if length > _HEADER:
            raise ValueError("its header is too long")
        tensors = load(data)  # which also checks the header
        metadata = parse_json(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # damaged files fail in many ways
        raise ZvlError(f"{path} can't be read as safetensors ({reason(error)}).") from error
    return tensors, metadata


def rows_of(tensors: dict[str, torch.Tensor], path: str) -> torch.Tensor:
    """The tensor `hidden_states` of a file as it is, float [tokens, hidden].

    Raises:
        ZvlError: there is none of that form.
    """
    if TENSOR not in tensors:
        raise ZvlError(
            f"{path} has no tensor {TENSOR!r}. It has to be written by extract or blend, or in the same way."
        )
    tensor = tensors[TENSOR]
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 2 or 0 in tensor.shape or not tensor.is_floating_point():
        raise ZvlError(f"{path}: {TENSOR} is {tensor.dtype} {list(tensor.shape)}; float [tokens, hidden] is needed.")
    if not tensor.float().isfinite().all():
        raise ZvlError(f"{path}: {TENSOR} has values that are not finite. Extract it again, in another dtype.")
    return tensor


def save(tensors: dict[str, torch.Tensor], path: str, metadata: dict[str, str], new: bool = False) -> None:
    """Write a safetensors file, whole or not at all; never one with values that are not finite.

    Args:
        new: Never take the place of a file that is there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ZvlError(f"{path} is not written: it would have values that are not finite. Choose another dtype.")
    with written(path, new) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise ZvlError(f"{path} can't be written ({error}).") from error
