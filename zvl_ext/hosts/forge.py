"""What Z-Image VL knows of the web UI, Forge Neo and its relatives: its features, its panel and its settings.

The modules `forge*` are the only ones that import the host. Everything it gives is looked up when it is needed and
tested by
feature, never by version, so that this module imports on every web UI of the family, and quickly: without torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import PRODUCT, Stopped, ZvlError, titled, untitled
from ..image_models import KLEIN, Z_IMAGE, ImageModel
from . import family

# --- what this host is --------------------------------------------------------------------------------------------


def has_zimage() -> bool:
    """Whether this web UI can load Z-Image at all."""
    try:
        return importlib.util.find_spec("backend.diffusion_engine.zimage") is not None
    except (ImportError, ValueError):  # no package of that name, or one that is no package
        return False


def without_zimage() -> str:
    """Why this web UI can't load Z-Image, where `has_zimage` says so."""
    from modules import paths

    modules = os.path.dirname(os.path.abspath(paths.__file__))
    return family.without_zimage(os.path.dirname(modules)) or family.UNKNOWN


# By the name of an engine's class: what its image model is. Where a class has several, its text engine tells.
_KNOWN: dict[str, Callable[[Any], ImageModel | None]] = {
    "ZImage": lambda engine: Z_IMAGE,
    "Flux2": lambda engine: KLEIN if _template(engine) == KLEIN.template.text else None,
}


def image_model(engine: Any) -> ImageModel | None:
    """Which of the image models that are known a loaded engine is; None where it is another. Asked at every use: a
    checkpoint may change between the passes of one picture."""
    return _KNOWN.get(type(engine).__name__, lambda engine: None)(engine)


def text_engine(engine: Any) -> Any:
    """What of an engine turns prompts into embeddings; None where it can't be found."""
    parts = vars(engine).values()
    return next((part for part in parts if hasattr(part, "llama_template") and hasattr(part, "tokenizer")), None)


def _template(engine: Any) -> str:
    return getattr(text_engine(engine), "llama_template", "")


def current_engine() -> Any:
    from modules import shared

    return shared.sd_model


def loaded_engine() -> Any:
    """The engine of the chosen checkpoint, loaded where it is not, as for a picture.

    Raises:
        ZvlError: none can be loaded.
    """
    try:
        from modules.sd_models import forge_model_reload
    except ImportError:
        return current_engine()
    try:
        return forge_model_reload()[0]
    except ValueError as error:
        raise ZvlError(f"The web UI can't load its checkpoint ({error}). Choose one, and make a picture.") from error


def prompts_of(texts: list[str], shape: tuple[int, int]) -> Any:
    """Prompts in the form that engines take them, of a picture that is not made: as negative ones, because with the
    others some engines take note of the pictures that are to be changed."""
    from modules.prompt_parser import SdConditioning

    return SdConditioning(texts, is_negative_prompt=True, width=shape[0], height=shape[1])


def plain_prompt(text: str) -> str:
    """A prompt without what names extra networks, which engines don't read."""
    try:
        from modules.extra_networks import parse_prompt
    except ImportError:
        return text
    return str(parse_prompt(text)[0])


def model_name(engine: Any) -> str:
    """What an engine's checkpoint is called; "" where that is not known."""
    return os.path.splitext(os.path.basename(str(getattr(engine, "filename", "") or "")))[0]


def caption_width(engine: Any) -> int | None:
    """How wide the rows are that a loaded image model takes for the prompt; None where that can't be told."""
    model = getattr(getattr(engine.forge_objects.unet, "model", None), "diffusion_model", None)
    for entrance in (lambda: model.cap_embedder[0], lambda: model.txt_in):
        with contextlib.suppress(AttributeError, TypeError, IndexError):  # compiled, quantized, or built in another way
            return int(entrance().weight.shape[-1])
    return None


def is_api(p: Any) -> bool:
    return bool(getattr(p, "is_api", False))


def begins_from_noise(p: Any) -> bool:
    """Whether a generation begins from noise alone, as txt2img's do, and not from a picture as img2img's."""
    return getattr(p, "init_images", None) is None


def upscaled(p: Any) -> Any:
    """The picture that a generation makes larger, where the user has asked for that under it; None where it makes its
    own."""
    return getattr(p, "firstpass_image", None) if getattr(p, "txt2img_upscale", False) else None


def parameters_in(image: Any) -> str:
    """The parameters in a picture; "" where there are none."""
    try:
        from modules.images import read_info_from_image
    except ImportError:
        return str(image.info.get("parameters") or "")
    return str(read_info_from_image(image)[0] or "")


def refusal(message: str, api: bool) -> Exception:
    """The exception that ends a run with one line, beginning with the product's name wherever it is shown.

    The panel shows the exception's class, which has that name, and text. Over the API an HTTPException becomes a status
    of its own; any other becomes 500.
    """
    if api:
        with contextlib.suppress(ImportError):
            from fastapi import HTTPException

            return type(PRODUCT, (HTTPException,), {"__str__": lambda self: self.detail})(422, titled(message))
    return ZvlError(untitled(message))


def interrupted() -> bool:
    """Whether the user has ended this picture with Interrupt or Skip. (To stop after it is another wish.)"""
    from modules import shared

    return bool(getattr(shared.state, "interrupted", False) or getattr(shared.state, "skipped", False))


def check_interrupted() -> None:
    """Raise Stopped where the user has ended this picture."""
    if interrupted():
        raise Stopped


def enclosing(p: Any) -> Any:
    """The generation within which another is being made, as extensions that repair faces do; None where there is none.

    The host does not say, but its function that makes a generation stands on the stack twice.
    """
    frame, outer = sys._getframe(), None
    while frame is not None:
        if frame.f_code.co_name == "process_images_inner" and frame.f_locals.get("p") is not p:
            outer = frame.f_locals.get("p")
        frame = frame.f_back
    return outer


def script_args(p: Any, title: str) -> tuple:
    """The arguments of the script of that title in a generation: all of them, where nothing runs scripts for it."""
    args = tuple(getattr(p, "script_args", None) or ())
    runner = getattr(p, "scripts", None)
    if runner is None:
        return args
    own = next((script for script in runner.alwayson_scripts if script.title() == title), None)
    return () if own is None else args[own.args_from : own.args_to]


def queue_lock() -> Any:
    """Held while a picture is being made."""
    from modules.call_queue import queue_lock as lock

    return lock


@contextlib.contextmanager
def job(name: str) -> Iterator[None]:
    """A turn at the host's models, as a picture has it: who comes waits for the one before, and what the user ends is
    this."""
    from modules import shared

    with queue_lock():
        shared.state.begin(job=name)
        try:
            yield
        finally:
            shared.state.end()
            shared.state.interrupted = shared.state.skipped = False


def busy() -> bool:
    """Whether somebody has a turn at the host's models."""
    from modules import shared

    return bool(getattr(shared.state, "job", ""))


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
    """Make the host's folder for temporary pictures: it saves there what is set from Python, and fails where it is
    missing."""
    from modules import shared

    folder = getattr(shared.opts, "temp_dir", "")
    if folder:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)


def on_before_ui(callback: Callable[[], None]) -> None:
    from modules import script_callbacks

    script_callbacks.on_before_ui(
        callback, **({"name": "zvl_axes"} if takes(script_callbacks.on_before_ui, "name") else {})
    )


def on_ui_settings(callback: Callable[[], None]) -> None:
    """Have it called before the host builds its settings page, where a host lets extensions have settings."""
    from modules import script_callbacks

    if register := getattr(script_callbacks, "on_ui_settings", None):
        register(callback, **({"name": "zvl_settings"} if takes(register, "name") else {}))


def on_cfg_denoiser(callback: Callable[[Any], None]) -> None:
    """Have it called before each sampling step."""
    from modules import script_callbacks

    if register := getattr(script_callbacks, "on_cfg_denoiser", None):
        register(callback, **({"name": "zvl_sampling"} if takes(register, "name") else {}))


def on_app_started(callback: Callable[[Any, Any], None]) -> None:
    """Have it called with the page and the server when the host is up, with or without a page."""
    from modules import script_callbacks

    if register := getattr(script_callbacks, "on_app_started", None):
        register(callback, **({"name": "zvl_api"} if takes(register, "name") else {}))


def register_settings(section: tuple[str, str], settings: Iterable[Any]) -> None:
    """Put controls on a page of the host's settings, in place of earlier ones of their names.

    Args:
        section: The page's id and title.
        settings: As `webui.settings.Setting` (a slider) or `webui.settings.Switch`.
    """
    import gradio as gr
    from modules import shared

    for s in settings:
        ends = {name: getattr(s, name) for name in ("minimum", "maximum", "step") if hasattr(s, name)}
        control = gr.Slider if ends else gr.Checkbox
        option = shared.OptionInfo(s.default, s.label, control, ends, section=section)
        shared.opts.add_option(s.name, option.info(s.help) if hasattr(option, "info") else option)


def setting(name: str, default: Any) -> Any:
    """A setting's value as the host has it: anything, where a user wrote it into a file. The default where it has
    none."""
    from modules import shared

    return getattr(shared.opts, name, default)


def xyz_module() -> Any:
    """The X/Y/Z plot's module as the host runs it. It is not importable by name: that would make a second copy."""
    from modules import scripts

    return next(
        (data.module for data in scripts.scripts_data if os.path.basename(data.path) in ("xyz_grid.py", "xy_grid.py")),
        None,
    )


def in_plot() -> bool:
    """Whether what is being made is a cell of the X/Y/Z plot: the host does not say, but its plot stands on the
    stack."""
    module = xyz_module()
    frame = sys._getframe() if module is not None else None
    while frame is not None:
        if frame.f_globals is vars(module):
            return True
        frame = frame.f_back
    return False


def takes(function: Callable, argument: str) -> bool:
    """Whether a function of the host has that parameter; hosts differ."""
    return argument in inspect.signature(function).parameters
