"""What pasted parameters put into the panel's controls, and what goes to another tab's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ..declaration import LEARNED, Option
from ..errors import shown
from ..options import OPTIONS
from ..outside import plain
from . import infotext, panel_file
from .host import Host

# What a picture may have been made from.
_SHOWN = tuple(option.infotext or "" for option in OPTIONS if option.kind in ("image", "conditioning"))


class Sent(str):
    """What an infotext field is told by: called, it gives what pasted parameters put into the control; as text, it is
    the name by which the web UI's "Send to" buttons pair the controls of two tabs."""

    _read: Callable[[dict], Any]

    def __new__(cls, name: str, read: Callable[[dict], Any]) -> Sent:
        made = super().__new__(cls, f"Z-Image VL: {name}")
        made._read = read
        return made

    def __call__(self, parameters: dict) -> Any:
        return self._read(parameters)


def fields(made: dict[str, Any], host: Host) -> list:
    """The infotext fields of the controls, for the host.

    Args:
        made: The controls, by their options' names.
    """

    def reader(option: Option) -> Callable[[dict], Any]:
        def read(parameters: dict) -> Any:
            if option.kind in ("image", "mask"):
                return _recent(option, parameters, host)
            if option.kind in ("conditioning", *LEARNED):
                return panel_file.pasted(option, parameters, host)
            value = infotext.read(option, parameters)
            if option.kind == "model":
                value = _pasted_model(value, host)
            return None if value is None else gr.update(value=value)

        return read

    readers: dict[str, Callable[[dict], Any]] = {o.name: reader(o) for o in OPTIONS if o.infotext}
    readers["enabled"] = lambda parameters: infotext.MARK in parameters
    readers["preset"] = infotext.preset
    unwritten = {o.name: lambda parameters: None for o in OPTIONS if o.name not in readers}  # sent, but not pasted
    return [host.paste_field(made[name], Sent(name, read)) for name, read in {**readers, **unwritten}.items()]


def _recent(option: Option, parameters: dict, host: Host) -> Any:
    """A reference or a mask of pasted parameters. One that is not kept leaves the control empty, never with another
    picture."""
    if infotext.MARK not in parameters:
        return None
    digest = parameters.get(option.infotext or "", "")
    image = host.recent(digest) if digest else None
    if image is not None:
        host.ensure_temp_folder()
        return gr.update(value=image)
    if digest or (option.name == "reference" and not any(key in parameters for key in _SHOWN)):
        gr.Warning(
            f"Z-Image VL: the {option.label.lower()} {plain(digest)} of these parameters is not kept here. Drop the "
            "picture into the panel again."
        )
    return gr.update(value=None)


def _pasted_model(name: str | None, host: Host) -> str | None:
    if not name or name in host.models():
        return name or None
    gr.Warning(
        f"Z-Image VL: the Qwen3-VL model {shown(name)} of these parameters is not there any more. The one in the "
        "panel stays chosen."
    )
    return None
