"""Which weights something was made with."""

from __future__ import annotations

import hashlib
import os

_WEIGHTS = (".safetensors", ".gguf")


def weights_digest(folder: str) -> str:
    """Of every weight file below a folder, by their content."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".safetensors"):
                with open(os.path.join(root, name), "rb") as file:
                    digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:16]


def files_digest(*paths: str) -> str:
    """Of large weights, by the names, sizes and times of their files: reading them would take minutes.

    Args:
        paths: Folders or files.
    """
    digest = hashlib.sha256()
    for path in paths:
        names = [path] if os.path.isfile(path) else _below(path)
        for name in names:
            info = os.stat(name)
            what = f"{os.path.relpath(name, path)} {info.st_size} {info.st_mtime_ns}\n"
            digest.update(what.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _below(folder: str) -> list[str]:
    found = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return sorted(name for name in found if name.endswith(_WEIGHTS))
