"""Random weights that can be repeated, and a Qwen3-VL of them on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import torch

from ...errors import ZvlError
from ...qwen3vl.checkpoint import Checkpoint
from ...qwen3vl.files import open_checkpoint
from ...qwen3vl.loading import config_object, transformers_classes
from .size import Size

DTYPE = torch.bfloat16
SEED = 0
_SHARD = 2 * 10**9  # bytes of a file at most, unless one tensor is larger
_ROOM = 2 * 2**30  # bytes of memory for everything but weights


class Shared(Checkpoint):
    """A checkpoint whose tensors are read once: the two sides of a comparison have the same ones in memory."""

    def read_stored(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor, torch.Tensor | None]]:
        names, kept = list(names), self.__dict__.setdefault("_kept", {})
        for name, *values in super().read_stored([name for name in names if name not in kept]):
            kept[name] = values
        for name in names:
            yield name, *kept[name]


def random_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight that keeps states finite and of the same order through all layers.

    The same for the same name and shape.
    """
    noise = torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()) + SEED))
    if "norm" in name and name.endswith("weight"):
        return noise.mul_(0.1).add_(1.0)
    if len(shape) == 1:
        return noise.mul_(0.1)
    if name.endswith(("embed_tokens.weight", "pos_embed.weight")):
        return noise
    return noise.mul_(math.prod(shape[1:]) ** -0.5)


@contextlib.contextmanager
def random_checkpoint(size: Size, work: str | None, say: Callable[[str], None]) -> Iterator[Checkpoint]:
    """A Qwen3-VL of random weights on disk, for as long as the context is open.

    Args:
        work: A folder where it stays and is used again; default: a temporary one that is removed at the end.

    Raises:
        ZvlError: the disk or the memory is too small, or the folder can't be written.
    """
    shapes = _shapes(size)
    nbytes = sum(math.prod(shape) for shape in shapes.values()) * DTYPE.itemsize
    _check_memory(size, nbytes)
    with contextlib.ExitStack() as stack:
        try:
            if work:
                os.makedirs(work, exist_ok=True)
            else:  # on Windows a file that is still open stays
                work = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="zvl-benchmark-", ignore_cleanup_errors=True)
                )
            folder = os.path.join(work, f"zvl-benchmark-{size.name}")
            checkpoint = _complete(folder, size)
            if checkpoint is None:
                _check_disk(work, nbytes)
                say(f"writing {nbytes / 1e9:.1f} GB of random weights to {folder}")
                _write(folder, size, shapes, say)
                checkpoint = open_checkpoint(folder)
        except OSError as error:
            raise ZvlError(
                f"{work or tempfile.gettempdir()} can't be written ({error.strerror or error}). Name another folder "
                "with --work."
            ) from error
        yield Shared(**{part.name: getattr(checkpoint, part.name) for part in dataclasses.fields(checkpoint)})


def _shapes(size: Size) -> dict[str, tuple[int, ...]]:
    model_class, _, _ = transformers_classes()
    with torch.device("meta"):
        model = model_class(config_object(size.config))
    return {name: tuple(weight.shape) for name, weight in model.named_parameters()}


def _check_memory(size: Size, nbytes: int) -> None:
    """Refuse where the weights, which both sides share, do not fit beside a copy in fp8."""
    needed, free = nbytes * 3 // 2 + _ROOM, free_memory()
    if free is not None and free < needed:
        raise ZvlError(
            f"The benchmark of size {size.name} needs {needed / 1e9:.1f} GB of free memory, there are "
            f"{free / 1e9:.1f}. Close other programs first."
        )


def _check_disk(folder: str, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes * 1.01:
        raise ZvlError(
            f"The benchmark writes {nbytes / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} free. Name another folder with "
            "--work."
        )


def free_memory() -> int | None:
    """Bytes of main memory that programs can have, or None where nobody knows."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.virtual_memory().available
    return None


def _complete(folder: str, size: Size) -> Checkpoint | None:
    """What an earlier run has left there. config.json is written last: where it is, the rest is."""
    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            if json.load(file) != _marked(size):
                return None
        return open_checkpoint(folder)
    except (OSError, ValueError):
        return None


def _marked(size: Size) -> dict:
    return size.config | {"zvl_benchmark_seed": SEED}


def _write(folder: str, size: Size, shapes: dict[str, tuple[int, ...]], say: Callable[[str], None]) -> None:
    """Shard by shard, so that no more than one is in memory."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    os.makedirs(folder, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, "config.json"))
    shards = _shards(shapes)
    places = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        say(f"  {file}")
        try:
            save_file(
                {f"model.{name}": random_weight(name, shapes[name]) for name in names}, os.path.join(folder, file)
            )
        except SafetensorError as error:
            raise ZvlError(f"{folder} can't be written ({error}). Name another folder with --work.") from error
        places |= {f"model.{name}": file for name in names}
    for file, content in (
        ("model.safetensors.index.json", {"metadata": {}, "weight_map": places}),
        ("config.json", _marked(size)),
    ):
        with open(os.path.join(folder, file), "w", encoding="utf-8") as opened:
            json.dump(content, opened, indent=1)


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    """Names in order, in groups of _SHARD bytes at most."""
    shards, filled = [[]], 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * DTYPE.itemsize
        if shards[-1] and filled + nbytes > _SHARD:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards
