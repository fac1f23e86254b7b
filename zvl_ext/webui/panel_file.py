"""The panel's conditioning files: choosing one, and saving what the last picture was conditioned on."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from ..declaration import numbered
from ..errors import ZvlError, shown, titled
from ..options import BY_NAME, UNITS
from ..outside import plain
from ..weighting import WEIGHTING
from . import infotext
from .host import Host

NONE = ("None", "")  # in the list, for no file
_WEIGHTS = tuple(numbered(name, number) for number in range(1, UNITS + 1) for name in WEIGHTING)
_LONGEST = 200  # characters of a prompt that is shown


def control(host: Host, **shown_as: Any) -> gr.Dropdown:
    """The list of files. What is not in it (any more) is refused when a picture is to be made, in a line."""
    return gr.Dropdown(_choices(host), value="", allow_custom_value=True, **shown_as)


def build_save(elem_id: Callable[[str], str]) -> dict[str, Any]:
    """The name's box and the button, and the line that says what is chosen."""
    with gr.Row(elem_classes=["zvl-save"]):
        name = gr.Textbox(
            show_label=False, placeholder="A name for the last picture's conditioning", container=False, max_lines=1,
            label="Name of the conditioning file", elem_id=elem_id("save_name"),
        )  # fmt: skip
        name.do_not_save_to_config = True
        button = gr.Button("Save conditioning", size="sm", min_width=60, elem_id=elem_id("save"))
    return {"name": name, "save": button, "about": gr.HTML("", elem_classes=["zvl-file"], elem_id=elem_id("file"))}


def listen(saving: dict[str, Any], refresh: Any, made: dict[str, Any], host: Host) -> None:
    """Give the controls what they do.

    Args:
        saving: As `build_save` gave it.
        refresh: The button that looks for files again.
        made: The controls of all options, by their names.
    """
    file = made["conditioning"]
    quiet = {"show_progress": "hidden"}  # in gradio's queue, without which nothing is shown of what they say
    refresh.click(functools.partial(_refreshed, host), inputs=[file], outputs=[file], **quiet)
    # `input` is the user's own choice: what is pasted brings its own weights.
    file.input(functools.partial(_weights, host), inputs=[file], outputs=[made[name] for name in _WEIGHTS], **quiet)
    file.change(functools.partial(_about, host), inputs=[file], outputs=[saving["about"]], **quiet)
    saving["save"].click(
        functools.partial(_saved, host), inputs=[saving["name"]], outputs=[file, saving["name"]], **quiet
    )


def pasted(parameters: dict, host: Host) -> Any:
    """What pasted parameters choose: the file of their picture, where it is there and still the same."""
    if infotext.MARK not in parameters:
        return None
    found = infotext.file_of(parameters)
    if found is None:
        return gr.update(value="")
    name, digest = found
    try:
        same = bool(digest) and host.conditioning(name).digest.startswith(digest)
        why = "" if same else f"the conditioning file {shown(name)} is another one than that of these parameters"
    except ZvlError as error:
        why = f"the conditioning file of these parameters can't be used. {error}".rstrip(".")
    if why:
        gr.Warning(titled(f"{why}. None is chosen."))
        return gr.update(value="")
    return gr.update(choices=_choices(host), value=name)


def _choices(host: Host) -> list[tuple[str, str]]:
    return [NONE, *((name, name) for name in host.conditionings() or ())]


def _refreshed(host: Host, chosen: str | None) -> Any:
    choices = _choices(host)
    return gr.update(choices=choices, value=chosen if chosen in dict(choices).values() else "")


def _weights(host: Host, name: str | None) -> list[Any]:
    """The controls as the file has them, so that what the panel shows is what acts."""
    weights: dict[str, Any] = {}
    if name:
        try:
            weights = host.conditioning(name).weights
        except ZvlError as error:
            gr.Warning(titled(str(error)))
    return [gr.update(value=weights[each]) if each in weights else gr.update() for each in _WEIGHTS]


def _about(host: Host, name: str | None) -> str:
    """What is chosen, as a line of HTML; empty where nothing is."""
    if not name:
        return ""
    try:
        about = host.conditioning(name).about
    except ZvlError as error:
        return f"<p class='zvl-help zvl-note'>{html.escape(str(error))}</p>"
    told = f" Its prompt: {plain(about.prompt, _LONGEST)}." if about.prompt else ""
    told += f" Read with {plain(about.reader)}." if about.reader else ""
    line = f"The picture is made from the conditioning file {shown(name)}: no Qwen3-VL, no reference.{told}"
    return f"<p class='zvl-help'>{html.escape(line)}</p>"


def _saved(host: Host, wanted: str | None) -> tuple[Any, Any]:
    try:
        name = host.save_conditioning(wanted or "")
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        return gr.update(), gr.update()
    label = BY_NAME["conditioning"].label
    gr.Info(titled(f"saved as {shown(name)}. It can be chosen under {label}."))
    return gr.update(choices=_choices(host)), gr.update(value="")
