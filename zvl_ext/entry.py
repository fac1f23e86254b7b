"""An entry of the store on disk: a bundle as the bytes of a safetensors file, and back. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Bundle = dict[str, "torch.Tensor"]  # what is kept under one key: named CPU tensors that own their storage
VERSION = "1"  # of the files
_HEADER = 2**20  # bytes; a longer header is none of ours


def nbytes(bundle: Bundle) -> int:
    return sum(tensor.nbytes for tensor in bundle.values())


def digest(key: Hashable) -> str:
    """The key's name: its repr has to be the same in every process."""
    return hashlib.sha256(repr(key).encode()).hexdigest()


def made_by() -> str:
    """What computed an entry, besides what its key names: another version may round otherwise, or mean something
    else."""
    import PIL
    import torch
    import transformers

    from . import __version__

    return (
        f"zvl {__version__}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"pillow {PIL.__version__}"
    )


def encoded(name: str, bundle: Bundle) -> bytes:
    """The file of a bundle whose key has that digest.

    Raises:
        Exception: of many kinds, for what safetensors can't hold.
    """
    from safetensors.torch import save

    bundle = _separate(bundle)
    metadata = {"zvl_store": VERSION, "key": name, "checksum": _checksum(bundle), "made_by": made_by()}
    return save(bundle, metadata)


def decoded(name: str, data: bytes) -> Bundle | None:
    """The bundle of a file, None when it is another key's, another version's or damaged.

    Raises:
        Exception: of many kinds, when it can't be parsed.
    """
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    if length > _HEADER:
        return None
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    if (metadata["zvl_store"], metadata["key"], metadata["made_by"]) != (VERSION, name, made_by()):
        return None
    bundle = load(data)
    return bundle if metadata["checksum"] == _checksum(bundle) else None


def _separate(bundle: Bundle) -> Bundle:
    """The same values, contiguous and none in the memory of another, as safetensors needs them."""
    separate, taken = {}, set()
    for name, tensor in bundle.items():
        tensor = tensor.detach().contiguous()
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return separate


def _checksum(bundle: Bundle) -> str:
    """crc32 of the names, dtypes, shapes and bytes of contiguous tensors: no defence against forgery, only against
    damage."""
    import torch

    checksum = 0
    for name, tensor in sorted(bundle.items()):
        checksum = zlib.crc32(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return str(checksum)
