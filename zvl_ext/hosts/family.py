"""Web UIs that can't run Z-Image VL, and why. They are told apart by the files they are made of: nothing of them is
imported, and nothing heavy either, so that the set-up can ask as well as the panel."""

from __future__ import annotations

import os
from collections.abc import Callable

NEEDED = (4, 57)  # of transformers: the first release that knows Qwen3-VL
_ENGINE = "backend/diffusion_engine/zimage.py"
_ELSEWHERE = "Z-Image VL works in Forge Neo and changes nothing here."

Has = Callable[[str], bool]  # whether a web UI has a file or a folder of that name

# From the most particular to the most general: what tells a web UI, and what is true of it.
_REASONS: tuple[tuple[Callable[[Has], bool], str], ...] = (
    (
        lambda has: has("installer.py"),
        "SD.Next loads Z-Image through diffusers, in a way that Z-Image VL has no adapter for yet. " + _ELSEWHERE,
    ),
    (
        lambda has: has("backend") and has("modules_forge/presets.py"),
        "This Forge Neo is from before Z-Image. Update the web UI.",
    ),
    (
        lambda has: has("backend") and has("modules_forge"),
        "This Forge (lllyasviel's) has no engine for Z-Image. " + _ELSEWHERE,
    ),
    (
        lambda has: has("ldm_patched"),
        "reForge, like the first Forge, is made for Stable Diffusion and can't load Z-Image. " + _ELSEWHERE,
    ),
    (
        lambda has: has("modules/sd_models.py"),
        "AUTOMATIC1111's web UI is made for Stable Diffusion and can't load Z-Image. " + _ELSEWHERE,
    ),
)
UNKNOWN = "This web UI can't load Z-Image, so there is nothing to condition here. " + _ELSEWHERE


def without_zimage(folder: str) -> str:
    """Why the web UI in a folder can't run Z-Image VL, in a sentence or two; "" where it can, and where no web UI that
    is known lies there."""

    def has(name: str) -> bool:
        return os.path.exists(os.path.join(folder, *name.split("/")))

    return "" if has(_ENGINE) else next((reason for told, reason in _REASONS if told(has)), "")


def without_qwen3vl() -> str:
    """Why this Python's transformers can't read with Qwen3-VL; "" where it can."""
    import importlib.metadata  # on first use: the panel is built with this module

    needed = ".".join(map(str, NEEDED))
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return f"transformers is not installed; it needs {needed} or newer. Update the web UI."
    if tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2]) < NEEDED:
        return f"transformers {version} does not know Qwen3-VL; it needs {needed} or newer. Update the web UI."
    return ""
