"""What Z-Image VL knows of the web UI, Forge Neo and its relatives. Its models and memory are in `forge_models`.

These two are the only modules that import the host. Everything it gives is looked up when it is needed and tested by
feature, never by version, so that this module imports on every web UI of the family, and quickly: without torch.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..budget import Memory, weight_bytes, working_bytes
from ..checkpoint import WANTED, Checkpoint, find, open_checkpoint
from ..errors import ZvlError
from ..options import Settings

FOLDER = "qwen3_vl"  # below the host's models folder; not its text_encoder folder, whose files it merges into the checkpoint


# --- what this host is --------------------------------------------------------------------------------------------


def has_zimage() -> bool:
    """Whether this web UI can load Z-Image at all."""
    try:
        return importlib.util.find_spec("backend.diffusion_engine.zimage") is not None
    except (ImportError, ValueError):  # no package of that name, or one that is no package
        return False


def is_zimage(engine: Any) -> bool:
    """Whether a loaded engine is Z-Image. Asked at every use: a checkpoint may change between the passes of one picture."""
    return type(engine).__name__ == "ZImage"


def current_engine() -> Any:
    from modules import shared

    return shared.sd_model


def is_api(p: Any) -> bool:
    return bool(getattr(p, "is_api", False))


def refusal(message: str, api: bool) -> Exception:
    """The exception that ends a run with one line.

    The panel shows the exception's class and text. Over the API an HTTPException becomes a status of its own; any other
    becomes 500.
    """
    if api:
        with contextlib.suppress(ImportError):
            from fastapi import HTTPException

            class ZImageVLError(HTTPException):
                def __str__(self) -> str:
                    return str(self.detail)

            return ZImageVLError(422, message)
    return ZvlError(message)


def queue_lock() -> Any:
    """Held while a picture is being made."""
    from modules.call_queue import queue_lock as lock

    return lock


def show_progress(text: str) -> None:
    """Say in the web UI's progress bar what is being done."""
    from modules import shared

    shared.state.textinfo = text


# --- parts of the panel ---------------------------------------------------------------------------------------------


def script_base() -> type:
    from modules import scripts

    return scripts.Script


def always_visible() -> Any:
    from modules import scripts

    return scripts.AlwaysVisible


def input_accordion(**kwargs: Any) -> tuple[Any, Any]:
    """The host's accordion with a switch, as the switch and as the block: here one object is both."""
    from modules.ui_components import InputAccordion

    accordion = InputAccordion(False, **kwargs)
    return accordion, accordion


def tool_button(**kwargs: Any) -> Any:
    from modules.ui_components import ToolButton

    return ToolButton(**kwargs)


def paste_field(component: Any, read: Callable[[dict], Any]) -> Any:
    """An infotext field whose value is computed from the pasted parameters."""
    try:
        from modules.infotext_utils import PasteField
    except ImportError:  # older web UIs take plain pairs
        return component, read
    return PasteField(component, read)


def ensure_temp_folder() -> None:
    """Make the host's folder for temporary pictures: it saves there what is set from Python, and fails where it is missing."""
    from modules import shared

    folder = getattr(shared.opts, "temp_dir", "")
    if folder:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)


def on_before_ui(callback: Callable[[], None]) -> None:
    from modules import script_callbacks

    script_callbacks.on_before_ui(callback, **({"name": "zvl_axes"} if takes(script_callbacks.on_before_ui, "name") else {}))


def on_ui_settings(callback: Callable[[], None]) -> None:
    """Have it called before the host builds its settings page, where a host lets extensions have settings."""
    from modules import script_callbacks

    if register := getattr(script_callbacks, "on_ui_settings", None):
        register(callback, **({"name": "zvl_settings"} if takes(register, "name") else {}))


def register_settings(section: tuple[str, str], settings: Iterable[Any]) -> None:
    """Put sliders on a page of the host's settings, in place of earlier ones of their names.

    Args:
        section: The page's id and title.
        settings: As `webui.settings.Setting`.
    """
    import gradio as gr
    from modules import shared

    for s in settings:
        option = shared.OptionInfo(s.default, s.label, gr.Slider, {"minimum": s.minimum, "maximum": s.maximum, "step": s.step}, section=section)
        shared.opts.add_option(s.name, option.info(s.help) if hasattr(option, "info") else option)


def setting(name: str, default: Any) -> Any:
    """A setting's value as the host has it: anything, where a user wrote it into a file. The default where it has none."""
    from modules import shared

    return getattr(shared.opts, name, default)


def xyz_module() -> Any:
    """The X/Y/Z plot's module as the host runs it. It is not importable by name: that would make a second copy."""
    from modules import scripts

    return next((data.module for data in scripts.scripts_data if os.path.basename(data.path) in ("xyz_grid.py", "xy_grid.py")), None)


# --- weights and references on disk -----------------------------------------------------------------------------------


def model_folders() -> list[str]:
    from modules import paths, shared

    return [os.path.join(paths.models_path, FOLDER), *(getattr(shared.cmd_opts, "qwen3_vl_dirs", None) or [])]


def models() -> dict[str, str]:
    """Qwen3-VL weights the user has, name -> path."""
    return find([folder for folder in model_folders() if os.path.isdir(folder)])


def checkpoint(name: str) -> Checkpoint:
    """The headers of the weights of that name; "" means the first ones found.

    Raises:
        ZvlError: there are none, or the name is not listed. A name is only looked up, never used as a path.
    """
    found = models()
    if not found:
        raise ZvlError(f"No Qwen3-VL weights were found. {WANTED}, put it into {model_folders()[0]} and press the refresh button.")
    name = name or next(iter(found))
    if name not in found:
        raise ZvlError(f"There is no Qwen3-VL model {name!r}; there is " + ", ".join(found) + ".")
    return _opened(found[name], name, _signature(found[name]))


@functools.lru_cache(maxsize=4)
def _opened(path: str, name: str, signature: tuple) -> Checkpoint:
    """The headers, read once for each state of the files: the panel asks for them whenever a control moves."""
    return open_checkpoint(path, name)


def _signature(path: str) -> tuple:
    """Changes when a file of weights does, or what is in a folder of them."""
    with contextlib.suppress(OSError):
        files = [entry.path for entry in os.scandir(path) if entry.is_file()] if os.path.isdir(path) else [path]
        return tuple((file, (info := os.stat(file)).st_size, info.st_mtime_ns) for file in sorted(files))
    return ()


def unload() -> None:
    """Free the memory that Qwen3-VL takes."""
    from . import forge_models

    forge_models.unload()


def memory(settings: Settings) -> Memory | None:
    """What reading a reference with these settings takes and what there is. None where it can't be told."""
    with contextlib.suppress(Exception):  # a line of help: whatever a host does differently, the panel stays whole
        opened = checkpoint(settings.model)
        import torch
        from backend import memory_management as mm

        # Computed in two bytes, or in float32 where the host's text encoder is; a text encoder in fp8 does not count.
        weights = weight_bytes(opened, settings, max(2, mm.text_encoder_dtype().itemsize))
        device = mm.text_encoder_device()
        on_cpu = "cpu" in (settings.device, device.type) or getattr(mm.vram_state, "name", "") == "NO_VRAM"
        return Memory(
            needed=weights + working_bytes(settings.reference_tokens),
            card=None if on_cpu else mm.get_total_memory(device),
            free=mm.get_free_memory(torch.device("cpu")) + _held(),
        )
    return None


def _held() -> int:
    """Bytes of main memory that Qwen3-VL holds from an earlier read, and gives back for the next."""
    models = sys.modules.get(f"{__package__}.forge_models")  # imported by the first read
    module = getattr(models and models._LOADED.patcher, "model", None)
    return sum(t.nbytes for t in module.state_dict().values() if t.device.type == "cpu") if module is not None else 0


def reference_folder() -> str:
    """Where the XYZ plot finds reference images by name."""
    from modules import paths, shared

    return getattr(shared.cmd_opts, "zvl_reference_dir", None) or os.path.join(paths.models_path, FOLDER, "references")


def reference_files() -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(e.name for e in os.scandir(reference_folder()) if e.is_file() and not e.name.startswith("."))
    return []


def takes(function: Callable, argument: str) -> bool:
    """Whether a function of the host has that parameter; hosts differ."""
    return argument in inspect.signature(function).parameters
