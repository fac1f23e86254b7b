"""The accordion, built from the options, for whatever host it stands in."""

from __future__ import annotations

import functools
import html
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gradio as gr

from ..budget import inserted_tokens, step_cost
from ..declaration import LEARNED, Option, numbered
from ..effects import RULES, idle
from ..errors import ZvlError
from ..options import BY_NAME, OPTIONS, UNITS, Settings, of_preset, preset_of
from ..presets import ABOUT, PRESETS
from ..qwen3vl.wanted import WANTED
from ..reference import open_mask, open_reference
from ..regions import INPAINT, NAMED_REGIONS
from . import dropped, panel_alone, panel_analyse, panel_file, panel_paste, panel_units
from .host import Host

# The controls by which a preset is known, and all that it sets.
PRESET_OPTIONS = tuple(dict.fromkeys(name for values in PRESETS.values() for name in values))
SET_OPTIONS = tuple(dict.fromkeys(name for preset in PRESETS for name in of_preset(preset)))
# Those that decide how many tokens the conditioning gets.
COST_OPTIONS = (
    "conditioning",
    "token_mode",
    "length_match",
    "merge",
    "reference_tokens",
    *(numbered(name, number) for number in range(1, UNITS + 1) for name in ("image_dropout", "reference")),
)
# Those that decide how much memory reading the reference takes, and where.
MEMORY_OPTIONS = (
    "conditioning",
    "model",
    "engine",
    "hidden_layer",
    "layer_mix",
    "image_layers",
    "reference_tokens",
    "storage",
    "device",
    "combine",
    *(numbered("reference", number) for number in range(1, UNITS + 1)),
)
# Those that may have no part in the picture, and those that decide it: of all references, and of each one's curve. What
# hangs on which references are there can always be chosen.
AFFECTED_OPTIONS = tuple(
    o.name for o in OPTIONS if o.name != "combine" and any(o.first in rule.names for rule in RULES)
)
EFFECT_OPTIONS = (
    "conditioning",
    "engine",
    "token_mode",
    "length_match",
    "scale_to_text",
    "outlier_repair",
    "layer_mix",
    "image_layers",
    "merge",
    "image_dropout",
    "vl_prompt",
)
_STEPS = tuple((numbered("start", number), numbered("end", number)) for number in range(1, UNITS + 1))
_DECIDING = (*EFFECT_OPTIONS, *(name for names in _STEPS for name in names))
# In a fresh panel, before anything changes.
_IDLE_AT_FIRST = idle(Settings()).keys() & set(AFFECTED_OPTIONS)
_ROW = ("hidden_layer", "token_mode", "normalization")
# The rows behind "More": what belongs together stands together. Options that are not named here come last.
_MORE = (
    ("combine", "proportional"),
    ("reference_tokens", "merge"),
    ("layer_mix", "image_layers"),
    ("engine", "length_match"),
    ("positions", "block_place"),
    ("blend_mode", "outlier_repair"),
    ("outlier_threshold", "outlier_direction"),
    ("vl_prompt", "system_prompt"),
    ("device", "storage"),
    ("measured",),
)
# One control for one thing: in the panel that is normalization none.
_HIDDEN = ("scale_to_text",)
# Those that name a file: the button that looks for files again, and what it looks for.
_FILES = {
    "conditioning": ("refresh_files", "conditioning files"),
    "profile": ("refresh_profiles", "profiles"),
    "projection": ("refresh_projections", "projections"),
}
_OPENED = {"image": open_reference, "mask": open_mask}
# What may make a read fit that does not: in words, and as values.
_SMALLER = (
    ("engine splice", {"engine": "splice"}),
    ("weights in memory fp8", {"storage": "fp8"}),
    ("a reference of 256 tokens", {"reference_tokens": 256}),
)


def build_unsupported(title: str, elem_id: Callable[[str], str], reason: str) -> list:
    """The panel on a web UI that can't run it: it says why, and has no controls."""
    with gr.Accordion(title, open=False, elem_id=elem_id("enabled")):
        gr.HTML(f"<p>{html.escape(reason)}</p>")
    return []


def build(title: str, elem_id: Callable[[str], str], host: Host) -> tuple[list, list]:
    """The accordion with all controls.

    Returns:
        The components in the order of the options (which is the order of the positional API), and the infotext fields.
    """
    made: dict[str, Any] = {}

    def control(name: str) -> None:
        made[name] = _control(BY_NAME[name], elem_id(name), host)

    def tool(name: str, sign: str, tooltip: str) -> Any:
        return host.tool_button(value=sign, elem_id=elem_id(name), tooltip=tooltip)

    made["enabled"], accordion = host.input_accordion(label=title, elem_id=elem_id("enabled"))
    with accordion, gr.Column(elem_classes=["zvl-panel"]):
        gr.HTML(_tips(elem_id), visible=True, elem_classes=["zvl-tips"])
        missing = gr.HTML(_missing(host), elem_classes=["zvl-missing"], elem_id=elem_id("missing"))
        with gr.Row():
            control("preset")
            control("alpha")
        about = gr.HTML(_about(BY_NAME["preset"].default), elem_classes=["zvl-about"])
        buttons = panel_units.build(control, elem_id, host)
        with gr.Column(visible=host.files("conditioning") is not None):
            saving = panel_file.build_save(elem_id)
        cost = gr.HTML(_cost(*(BY_NAME[name].default for name in COST_OPTIONS)))
        with gr.Row(elem_classes=["zvl-compact"]):
            for name in _ROW:
                control(name)
        with gr.Accordion("More", open=False, elem_id=elem_id("advanced")):
            with gr.Row(elem_classes=["zvl-model"]):
                control("model")
                refresh = tool("refresh", "\U0001f504", "Look for Qwen3-VL weights again")
                free = tool("free", "\U0001f9f9", "Free the memory that Qwen3-VL takes")
                forget = tool("forget", "\U0001f5d1\ufe0f", "Forget what is kept of references (memory and disk)")
            refreshes, told = {}, {}
            for name, (button, what) in _FILES.items():
                with gr.Row(elem_classes=["zvl-model"], visible=host.files(BY_NAME[name].kind) is not None):
                    control(name)
                    refreshes[name] = tool(button, "\U0001f504", f"Look for {what} again")
                if BY_NAME[name].kind in LEARNED:
                    told[name] = gr.HTML("", elem_classes=["zvl-file"], elem_id=elem_id(f"about_{name}"))
            memory = gr.HTML(
                _memory(host, *(BY_NAME[name].default for name in MEMORY_OPTIONS)), elem_classes=["zvl-memory"]
            )
            alone = gr.HTML(panel_alone.line(host, *(BY_NAME[name].default for name in panel_alone.OPTIONS)))
            named = {*made, *_HIDDEN, *(name for names in _MORE for name in names)}
            others = tuple((option.name,) for option in OPTIONS if option.name not in named)
            for names in (*_MORE, *others, _HIDDEN):
                with gr.Row(elem_classes=["zvl-pair"]):
                    for name in names:
                        control(name)
            analysis = panel_analyse.build(elem_id, host)

    quiet = {"show_progress": False, "queue": False}

    def controls(names: Iterable[str]) -> list:
        return [made[name] for name in names]

    def on_change(names: Iterable[str], fn: Callable, outputs: list, inputs: Iterable[str] = ()) -> dict[str, Any]:
        """Have outputs made anew whenever one of the options changes, from them or from others; gives the event's
        arguments."""
        event = {"fn": fn, "inputs": controls(inputs or names), "outputs": outputs, **quiet}
        for name in names:
            made[name].change(**event)
        return event

    show_memory = on_change(MEMORY_OPTIONS, functools.partial(_memory, host), [memory])
    refreshed = refresh.click(
        functools.partial(_refresh, host), inputs=[made["model"]], outputs=[made["model"], missing], show_progress=False
    )
    refreshed.then(**show_memory)  # other weights may have come under the same name
    free.click(functools.partial(_free, host), show_progress=False)
    forget.click(functools.partial(_forget, host), show_progress=False)
    set_by_preset = [made[name] for name in SET_OPTIONS]
    # `input` is the user's own choice; `change` would also fire when the controls below set the preset's name.
    made["preset"].input(_choose_preset, inputs=[made["preset"]], outputs=set_by_preset, **quiet)
    made["preset"].change(_about, inputs=[made["preset"]], outputs=[about], **quiet)
    on_change(PRESET_OPTIONS, _name_preset, [made["preset"]])
    on_change(COST_OPTIONS, _cost, [cost])
    for option in OPTIONS:
        if option.kind in _OPENED:
            made[option.name].upload(
                functools.partial(dropped.preview, host.ensure_temp_folder, _OPENED[option.kind]),
                inputs=[made[option.name]],
                outputs=[made[option.name]],
                show_progress="hidden",
            )

    def on_effect(names: Iterable[str], affected: Sequence[str]) -> None:
        on_change(names, functools.partial(_effects, affected), controls(affected), _DECIDING)

    on_effect(EFFECT_OPTIONS, AFFECTED_OPTIONS)
    for number, names in enumerate(_STEPS, 1):
        on_effect(names, [numbered("curve", number)])
    on_change(panel_alone.OPTIONS, functools.partial(panel_alone.line, host), [alone])
    panel_units.listen(buttons, made, host)
    panel_analyse.listen(analysis, made, host)
    panel_file.listen(saving, made, host)
    for name, line in told.items():
        panel_file.tell(name, line, made, host)
    for name, button in refreshes.items():
        panel_file.refresh(name, button, made, host)
    return [made[option.name] for option in OPTIONS], panel_paste.fields(made, host)


def _tips(elem_id: Callable[[str], str]) -> str:
    """The options' help as data for the page's script, which makes tooltips of it."""
    tips = {elem_id(option.name): option.help for option in OPTIONS}
    return f"<div data-zvl-tips='{html.escape(json.dumps(tips), quote=True)}'></div>"


def _about(name: str) -> str:
    """A preset in one line, as HTML."""
    return f"<p class='zvl-help'>{html.escape(ABOUT.get(name, 'Settings of your own.'))}</p>"


def _effects(affected: Sequence[str], *values: Any) -> Any:
    """What has no part in the picture can't be moved; the weight, which is the strength elsewhere, goes out of
    sight."""
    try:
        settings = Settings.from_mapping(dict(zip(_DECIDING, values)))
    except ZvlError:  # a number is being typed
        updates = [gr.update() for _ in affected]
    else:
        silent = idle(settings)
        updates = [
            gr.update(
                interactive=name not in silent,
                **({"visible": name not in silent} if BY_NAME[name].first == "weight" else {}),
            )
            for name in affected
        ]
    return updates if len(updates) > 1 else updates[0]


def _control(option: Option, elem_id: str, host: Host) -> Any:
    component = _component(option, elem_id, host)
    # The web UI keeps the first start's values as the user's defaults: after an update, a fresh panel would have some
    # of an old preset and some of a new one. What a preset sets is not kept there.
    component.do_not_save_to_config = option.name in ("preset", *_FILES) or option.first in PRESET_OPTIONS
    return component


def _component(option: Option, elem_id: str, host: Host) -> Any:
    shown = {
        "label": option.label,
        "elem_id": elem_id,
        "visible": option.name not in _HIDDEN,
        "interactive": option.name not in _IDLE_AT_FIRST,
    }
    info = {"info": option.hint} if option.hint else {}
    if option.kind == "switch":
        return gr.Checkbox(value=option.default, **info, **shown)
    if option.kind in ("number", "integer"):
        return gr.Slider(option.minimum, option.maximum, value=option.default, step=option.step, **info, **shown)
    if option.kind == "choice":
        kind = gr.Radio if option.name == "engine" else gr.Dropdown
        return kind(list(option.choices), value=option.default, **info, **shown)
    if option.kind == "region":
        # Only img2img has a mask of its own; edges are typed in.
        words = [*NAMED_REGIONS, *([INPAINT] if "img2img" in elem_id else [])]
        return gr.Dropdown(words, value=option.default, allow_custom_value=True, **info, **shown)
    if option.kind == "model":
        names = list(host.models())
        return gr.Dropdown(names, value=names[0] if names else None, **info, **shown)
    if option.name in _FILES:
        return panel_file.control(option, host, **info, **shown)
    if option.kind == "image":
        return dropped.control(**shown)
    if option.kind == "mask":
        return dropped.control(height=220, **shown)
    if option.kind == "images":
        return dropped.several(**shown)
    return gr.Textbox(value=option.default, lines=1, max_lines=6, **info, **shown)


def _missing(host: Host) -> str:
    """What to get and where to put it, while there are no weights or nothing that could run them; empty when there
    are."""
    if obstacle := host.obstacle():
        return f"<div class='zvl-note'>{html.escape(obstacle)}</div>"
    if host.models():
        return ""
    folder = html.escape(host.model_folders()[0])
    where = f"Put it into <code>{folder}</code> and press <span>\U0001f504</span>."
    return f"<div class='zvl-note'>No Qwen3-VL weights found. {html.escape(WANTED)}.<br>{where}</div>"


def _refresh(host: Host, chosen: str | None) -> tuple[Any, str]:
    names = list(host.models())
    return gr.update(choices=names, value=chosen if chosen in names else (names[0] if names else None)), _missing(host)


def _free(host: Host) -> None:
    host.unload()
    gr.Info("Z-Image VL: Qwen3-VL was unloaded.")


def _forget(host: Host) -> None:
    freed = host.forget()
    gr.Info(f"Z-Image VL: what was kept of references is forgotten ({freed / 2**20:.1f} MiB).")


def _choose_preset(name: str) -> list:
    values = of_preset(name)
    return [gr.update(value=values[key]) if key in values else gr.update() for key in SET_OPTIONS]


def _name_preset(*values: Any) -> str:
    # Controls may hold anything while they are being typed into; unchecked values simply match no preset.
    return preset_of(Settings(**dict(zip(PRESET_OPTIONS, values))))


def _cost(*values: Any) -> str:
    """What the added tokens cost in sampling, as a line of HTML."""
    try:
        settings = Settings.from_mapping(dict(zip(COST_OPTIONS, values)))
    except ZvlError:  # a number is being typed
        return ""
    if settings.conditioning:  # its line says what it is
        return ""
    added = sum(inserted_tokens(own, own.reference_tokens) for own in settings.units.values() or [settings])
    if not added:
        return "<p class='zvl-help'>Adds no tokens: sampling takes as long as without a reference.</p>"
    longer = f"a sampling step at 1024 × 1024 takes about {step_cost(added):.0f} % longer"
    return f"<p class='zvl-help'>Adds up to {added} tokens: {longer}.</p>"


def _memory(host: Host, *values: Any) -> str:
    """What reading the reference takes of the memory there is, as a line of HTML; what to do where that is not
    enough."""
    try:
        settings = Settings.from_mapping(dict(zip(MEMORY_OPTIONS, values)))
    except ZvlError:  # a number is being typed
        return ""
    if settings.conditioning:  # nothing is read
        return ""
    memory = host.memory(settings)
    if memory is None:
        return ""
    takes = f"{'The vision tower' if settings.engine == 'splice' else 'Qwen3-VL'} takes about {_gib(memory.needed)}"
    reads = "the references" if len(settings.units) > 1 and settings.combine == "in turn" else "the reference"
    room = memory.free if memory.card is None else memory.card
    if room is None:
        return f"<p class='zvl-help'>{takes} while it reads {reads}.</p>"
    if memory.needed <= room:
        there = (
            f"{_gib(room)} of main memory are free" if memory.card is None else f"the graphics card has {_gib(room)}"
        )
        return f"<p class='zvl-help'>{takes} while it reads {reads}; {there}.</p>"
    free = (
        f"the main memory that is free ({_gib(memory.free)})"
        if memory.free is not None and memory.needed > memory.free
        else ""
    )
    if memory.card is None:
        problem = f"does not fit {free}."
    elif free:
        problem = f"fits neither the graphics card ({_gib(room)}) nor {free}."
    else:
        problem = f"does not fit the graphics card ({_gib(room)}): it runs on the CPU, which is slower."
    smaller = [
        words for words, change in _SMALLER if (other := host.memory(settings.changed(change))) and other.needed <= room
    ]
    advice = ([f"Choose {' or '.join(smaller)}."] if smaller else []) + (["Close other programs."] if free else [])
    return f"<p class='zvl-help zvl-note'>{takes} and {' '.join([problem, *advice])}</p>"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
