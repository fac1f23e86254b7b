"""The panel's files: a conditioning or learned numbers are chosen, and what the last picture was conditioned on
saved."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from ..declaration import LEARNED, Option, numbered
from ..errors import ZvlError, shown, titled
from ..options import BY_NAME, UNITS
from ..outside import plain
from ..profiles import FITTED_FOR, Profile
from ..projections import Projection
from ..weighting import WEIGHTING
from . import infotext
from .host import Host

NONE = ("None", "")  # in the list, for no file
_WEIGHTS = tuple(numbered(name, number) for number in range(1, UNITS + 1) for name in WEIGHTING)
_LONGEST = 200  # characters of a prompt that is shown
_SEARCHED = 200  # files of learned numbers that are looked at for one of a digest


def control(option: Option, host: Host, **shown_as: Any) -> gr.Dropdown:
    """The list of files of an option's kind. What is not in it (any more) is refused when a picture is to be made, in
    a line."""
    return gr.Dropdown(_choices(option, host), value="", allow_custom_value=True, **shown_as)


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


_QUIET = {"show_progress": "hidden"}  # in gradio's queue, without which nothing is shown of what they say


def refresh(name: str, button: Any, made: dict[str, Any], host: Host) -> None:
    """Let a button look for an option's files again.

    Args:
        made: The controls of all options, by their names.
    """
    again = functools.partial(_refreshed, BY_NAME[name], host)
    button.click(again, inputs=[made[name]], outputs=[made[name]], **_QUIET)


def listen(saving: dict[str, Any], made: dict[str, Any], host: Host) -> None:
    """Give the controls of conditioning files what they do.

    Args:
        saving: As `build_save` gave it.
        made: The controls of all options, by their names.
    """
    file = made["conditioning"]
    # `input` is the user's own choice: what is pasted brings its own weights.
    file.input(functools.partial(_weights, host), inputs=[file], outputs=[made[name] for name in _WEIGHTS], **_QUIET)
    file.change(functools.partial(_about, host), inputs=[file], outputs=[saving["about"]], **_QUIET)
    saving["save"].click(
        functools.partial(_saved, host), inputs=[saving["name"]], outputs=[file, saving["name"]], **_QUIET
    )


def tell(name: str, line: Any, made: dict[str, Any], host: Host) -> None:
    """Let a line say what the learned numbers that are chosen under an option were fitted for.

    Args:
        made: The controls of all options, by their names.
    """
    about = functools.partial(_about_learned, BY_NAME[name].kind, host)
    made[name].change(about, inputs=[made[name]], outputs=[line], **_QUIET)


def pasted(option: Option, parameters: dict, host: Host) -> Any:
    """What pasted parameters choose: the file of their picture, where it is there and still the same.

    Files of learned numbers are few, so one is also found under another name.
    """
    if infotext.read(option, parameters) is None:
        return None
    found = infotext.file_of(option, parameters)
    if found is None:
        return gr.update(value="")
    name, digest = found
    others = [each for each in host.files(option.kind) or () if each != name][:_SEARCHED]
    what, why = option.label.lower(), ""
    for each in [name, *(others if option.kind in LEARNED else [])]:
        try:
            if digest and host.file(option.kind, each).digest.startswith(digest):
                return gr.update(choices=_choices(option, host), value=each)
            why = why or f"the {what} {shown(name)} is another one than that of these parameters"
        except ZvlError as error:
            why = why or f"the {what} of these parameters can't be used. {error}".rstrip(".")
    gr.Warning(titled(f"{why}. None is chosen."))
    return gr.update(value="")


def _choices(option: Option, host: Host) -> list[tuple[str, str]]:
    return [NONE, *((name, name) for name in host.files(option.kind) or ())]


def _refreshed(option: Option, host: Host, chosen: str | None) -> Any:
    choices = _choices(option, host)
    return gr.update(choices=choices, value=chosen if chosen in dict(choices).values() else "")


def _weights(host: Host, name: str | None) -> list[Any]:
    """The controls as the file has them, so that what the panel shows is what acts."""
    weights: dict[str, Any] = {}
    if name:
        try:
            weights = host.file("conditioning", name).weights
        except ZvlError as error:
            gr.Warning(titled(str(error)))
    return [gr.update(value=weights[each]) if each in weights else gr.update() for each in _WEIGHTS]


def _about(host: Host, name: str | None) -> str:
    """What is chosen, as a line of HTML; empty where nothing is."""
    if not name:
        return ""
    try:
        about = host.file("conditioning", name).about
    except ZvlError as error:
        return f"<p class='zvl-help zvl-note'>{html.escape(str(error))}</p>"
    told = f" Its prompt: {plain(about.prompt, _LONGEST)}." if about.prompt else ""
    told += f" Read with {plain(about.reader)}." if about.reader else ""
    line = f"The picture is made from the conditioning file {shown(name)}: no Qwen3-VL, no reference.{told}"
    return f"<p class='zvl-help'>{html.escape(line)}</p>"


def _about_learned(kind: str, host: Host, name: str | None) -> str:
    """What is chosen of a kind, as a line of HTML; empty where nothing is."""
    if not name:
        return ""
    try:
        told = _TOLD[kind](host.file(kind, name))
    except ZvlError as error:
        return f"<p class='zvl-help zvl-note'>{html.escape(str(error))}</p>"
    return f"<p class='zvl-help'>{html.escape('; '.join(filter(None, told)))}.</p>"


def _listed(file: Profile | Projection, names: Iterable[str]) -> str:
    texts = {name: plain(file.told(name), _LONGEST) for name in names}
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in texts.items() if text)


def _about_profile(profile: Profile) -> list[str]:
    model = plain(profile.told("image_model"), _LONGEST) or f"{len(profile.main)} blocks of {profile.heads} heads"
    pictures = f", on {plain(profile.told('pictures'), _LONGEST)} pictures" if profile.told("pictures") else ""
    return [
        f"Fitted for {model}{pictures}",
        f"read with {read}" if (read := _listed(profile, FITTED_FOR)) else "",
        f"meant for {meant}" if (meant := _listed(profile, ("weight", "curve"))) else "",
    ]


def _about_projection(projection: Projection) -> list[str]:
    model = plain(projection.told("model"), _LONGEST) or "a Qwen3-VL"
    target = plain(projection.told("image_model"), _LONGEST)
    layers = ", ".join(map(str, projection.maps))
    return [
        f"From {model} ({projection.hidden} wide) to {f'{target} (' if target else 'rows '}{projection.width} wide"
        + (")" if target else ""),
        f"hidden layer {layers}" if len(projection.maps) == 1 else f"hidden layers {layers}",
        f"on {fitted}" if (fitted := _counted(projection)) else "",
    ]


def _counted(projection: Projection) -> str:
    counts = {name: plain(projection.told(name), 20) for name in ("texts", "pictures")}
    return " and ".join(f"{count} {name}" for name, count in counts.items() if count not in ("", "0"))


# What is said of a file of a kind of learned numbers, part by part.
_TOLD: dict[str, Callable[[Any], list[str]]] = {"profile": _about_profile, "projection": _about_projection}


def _saved(host: Host, wanted: str | None) -> tuple[Any, Any]:
    try:
        name = host.save_conditioning(wanted or "")
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        return gr.update(), gr.update()
    option = BY_NAME["conditioning"]
    gr.Info(titled(f"saved as {shown(name)}. It can be chosen under {option.label}."))
    return gr.update(choices=_choices(option, host)), gr.update(value="")
