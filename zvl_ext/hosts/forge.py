"""The one module that knows the web UI: Forge Neo, and how far its relatives get.

Everything the host gives is looked up when it is needed and tested by feature, never by version, so that this module
imports on every web UI of the family. What the host does, and where, is written beside each function.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import inspect
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..checkpoint import WANTED, Checkpoint, find, open_checkpoint
from ..errors import ZvlError
from ..sequence import TEMPLATE, Encode

FOLDER = "qwen3_vl"  # below the host's models folder; not its text_encoder folder, whose files it merges into the checkpoint
GIB = 2**30


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


def input_accordion(**kwargs: Any) -> Any:
    """The host's accordion with a switch; its value is whether it is on."""
    from modules.ui_components import InputAccordion

    return InputAccordion(False, **kwargs)


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


def on_before_ui(callback: Callable[[], None]) -> None:
    from modules import script_callbacks

    script_callbacks.on_before_ui(callback, name="zvl_axes") if _takes(script_callbacks.on_before_ui, "name") else script_callbacks.on_before_ui(callback)


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
    return open_checkpoint(found[name], name)


def reference_folder() -> str:
    """Where the XYZ plot finds reference images by name."""
    from modules import paths, shared

    return getattr(shared.cmd_opts, "zvl_reference_dir", None) or os.path.join(paths.models_path, FOLDER, "references")


def reference_files() -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(e.name for e in os.scandir(reference_folder()) if e.is_file() and not e.name.startswith("."))
    return []


# --- the host's text encoder ------------------------------------------------------------------------------------------


def encoder(engine: Any) -> Encode:
    """The host's tokenizer as a function from text to ids.

    Raises:
        ZvlError: the engine's prompt template is not Z-Image's, or it can't be found.
    """
    text_engine = next((part for part in vars(engine).values() if hasattr(part, "llama_template") and hasattr(part, "tokenizer")), None)
    if text_engine is None or text_engine.llama_template != TEMPLATE:
        raise ZvlError("This version of the web UI encodes Z-Image's prompt in a way Z-Image VL does not know. Look for an update of Z-Image VL.")
    tokenizer = getattr(text_engine.tokenizer, "tokenizer", text_engine.tokenizer)  # newer engines wrap it
    return lambda text: tokenizer([text])["input_ids"][0]


@contextlib.contextmanager
def observed_ids(engine: Any) -> Iterator[list[list[int]]]:
    """The id sequences that the text encoder embeds while the context is open, one list per sequence, in order.

    Watching the embedding gives what was really read: templates, emphasis and BREAK included, whatever the engine's class.
    """
    root = engine.forge_objects.clip.cond_stage_model
    embeddings = [module for name, module in root.named_modules() if name.endswith("embed_tokens")]
    if len(embeddings) != 1:
        raise ZvlError("This version of the web UI has a text encoder that Z-Image VL does not know. Look for an update of Z-Image VL.")
    seen: list[list[int]] = []

    def watch(module: Any, inputs: tuple) -> None:
        seen.extend(inputs[0].tolist())

    handle = embeddings[0].register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()


def per_engine() -> weakref.WeakKeyDictionary:
    """A memory of things measured on an engine, which goes with the engine."""
    return weakref.WeakKeyDictionary()


# --- memory ---------------------------------------------------------------------------------------------------------


class _Loaded:
    """The one Qwen3-VL that is held between pictures, as the host holds its text encoder."""

    key: tuple | None = None
    model: Any = None
    patcher: Any = None

    def drop(self) -> None:
        from backend import memory_management as mm

        if self.patcher is not None:
            with contextlib.suppress(Exception):  # best effort: this runs after failures, too
                self.patcher.detach()
                mm.unload_model(self.patcher)
        self.key = self.model = self.patcher = None
        gc.collect()
        mm.soft_empty_cache()


_LOADED = _Loaded()


def unload() -> None:
    """Give back the memory that Qwen3-VL takes."""
    _LOADED.drop()


class ForgeExtractor:
    """Qwen3-VL on the host's device, placed by the host's memory management.

    The model is always loaded whole: the host's partial offloading leaves parts of a transformers model on the wrong device.

    Args:
        checkpoint: The weights.
        device: `auto` (the text encoder's device, or the CPU where the model can't fit) or `cpu`.

    Attributes:
        note: Something the user should know about the placement, or "".
    """

    def __init__(self, checkpoint: Checkpoint, device: str):
        import torch
        from backend import memory_management as mm

        self.checkpoint = checkpoint
        self.note = ""
        self.device = torch.device("cpu") if device == "cpu" else mm.text_encoder_device()
        self.dtype = _compute_dtype(self.device)
        if self.device.type != "cpu":
            needed = checkpoint.parameters * self.dtype.itemsize + _activations(0)
            total = mm.get_total_memory(self.device)
            no_vram = getattr(mm.vram_state, "name", "") == "NO_VRAM"
            if needed > total or no_vram:
                self.note = f"Qwen3-VL needs {needed / GIB:.1f} GiB, the graphics card has {total / GIB:.1f}: it runs on the CPU, which is slower."
                self.device = torch.device("cpu")
                self.dtype = _compute_dtype(self.device)
        self.precision = f"{self.device} {self.dtype}"

    def hidden_states(self, sequence: Any, reference: Any, tokens: int, layers: Iterable[int]) -> dict[int, Any]:
        import torch
        from backend import memory_management as mm

        show_progress("Z-Image VL: reading the reference")
        out_of_memory = getattr(mm, "OOM_EXCEPTION", torch.cuda.OutOfMemoryError)
        try:
            self._place(len(sequence.ids))
            return _LOADED.model.hidden_states(sequence, reference, tokens, layers)
        except (out_of_memory, MemoryError) as error:
            _LOADED.drop()
            raise ZvlError(f"Not enough memory for Qwen3-VL on {self.device}. Choose the device cpu, or a smaller reference size.") from error
        except RuntimeError as error:
            _LOADED.drop()  # in an unknown state, on an unknown device: the next run starts afresh
            if "not enough memory" in str(error):  # torch's words for the CPU
                raise ZvlError("Not enough main memory for Qwen3-VL. Close other programs, or use a computer with more.") from error
            raise

    def _place(self, tokens: int) -> None:
        import torch
        from backend import memory_management as mm
        from backend.patcher.base import ModelPatcher

        from .. import language

        key = (self.checkpoint.identity, self.precision)
        if _LOADED.key != key:
            _LOADED.drop()
            show_progress(f"Z-Image VL: loading {self.checkpoint.name}")
            # The host moves the weights later, outside inference mode, where tensors made inside could not be replaced.
            with torch.inference_mode(False):
                model = language.load(self.checkpoint, self.dtype)
            cpu = torch.device("cpu")
            offload = cpu if self.device == cpu else mm.text_encoder_offload_device()
            _LOADED.patcher = ModelPatcher(model.module, load_device=self.device, offload_device=offload)
            _LOADED.model, _LOADED.key = model, key
        more = {"force_full_load": True} if _takes(mm.load_models_gpu, "force_full_load") else {}
        with torch.inference_mode(False):
            mm.load_models_gpu([_LOADED.patcher], memory_required=_activations(tokens), **more)


def _compute_dtype(device: Any) -> Any:
    """The host's dtype for text encoders where Qwen3-VL can compute in it, else bfloat16 if possible.

    fp8 is for storage only; fp16 is slow on a CPU and its range is narrow for the attention sink's activations.
    """
    import torch
    from backend import memory_management as mm

    dtype = mm.text_encoder_dtype()
    if dtype in (torch.bfloat16, torch.float32):
        return dtype
    if device.type == "cpu" or mm.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16


def _activations(tokens: int) -> int:
    """Bytes that a pass needs besides the weights: 0.25 GiB for the vision tower, 0.5 MiB for every token."""
    return GIB // 4 + tokens * 2**19


def _takes(function: Callable, argument: str) -> bool:
    return argument in inspect.signature(function).parameters
