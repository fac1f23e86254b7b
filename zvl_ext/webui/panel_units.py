"""The panel's references: a tab for each, and the buttons below."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable
from typing import Any

import gradio as gr

from ..declaration import numbered
from ..errors import ZvlError, titled
from ..options import BY_NAME, OPTIONS, UNIT_OPTIONS, UNITS, Settings, of_preset
from . import panel_caption
from .host import Host

# Behind "Where and when", what belongs together side by side.
_FOLDED = (
    ("start", "end"),
    ("curve", "blocks"),
    ("image_dropout", "crop"),
    ("region", "negative"),
    ("reference_mask", "region_mask"),
)
# What can be painted, in the page and by its script.
_PAINTED = {"reference_mask": "Paint the reference mask", "region_mask": "Paint the region mask"}
_CLEARED = tuple(option for option in OPTIONS if option.unit or option.kind == "images")
_SIDE = 1024  # of the picture, where the page has no sliders for its size
_SIZE_OF_THE_PICTURE = """(width, height, ...values) => {
    const side = (name) => Number(document.querySelector(`#TAB_${name} input[type=number]`)?.value) || SIDE;
    return [side("width"), side("height"), ...values];
}"""


def build(control: Callable[[str], None], elem_id: Callable[[str], str], host: Host) -> dict[str, Any]:
    """The tabs and the buttons.

    Args:
        control: Makes the control of an option where it is called.

    Returns:
        What `listen` needs.
    """

    def button(name: str, words: str) -> Any:
        return gr.Button(words, size="sm", min_width=60, elem_id=elem_id(name))

    describe = {}
    with gr.Tabs(elem_id=elem_id("units"), elem_classes=["zvl-units"]):
        for number in range(1, UNITS + 1):
            with gr.Tab(f"Reference {number}", elem_id=elem_id(f"unit_{number}")), gr.Row():
                with gr.Column(scale=2, min_width=220):
                    control(numbered("reference", number))
                    describe[number] = panel_caption.button(number, elem_id)
                with gr.Column(scale=3, min_width=280):
                    control(numbered("weight", number))
                    with gr.Accordion("Where and when", open=False, elem_id=elem_id(f"where_{number}")):
                        for names in _FOLDED:
                            with gr.Row(elem_classes=["zvl-pair"]):
                                for name in names:
                                    control(numbered(name, number))
                        with gr.Row(elem_classes=["zvl-buttons"]):
                            for name, words in _PAINTED.items():
                                button(f"paint_{name}_{number}", words)
        with gr.Tab("Batch", elem_id=elem_id("unit_batch"), visible=host.batches):
            control("reference_batch")
            gr.HTML(f"<p class='zvl-help'>{html.escape(BY_NAME['reference_batch'].help)}</p>")
    with gr.Row(elem_classes=["zvl-buttons"]):
        made: dict[str, Any] = {
            "seen": button("see", "Show what the model sees"),
            "swap": button("swap", "Swap 1 and 2"),
        }
        # What these do is done in the page, by its script.
        button("use_result", "Use the last result")
        button("use_img2img", "Use the img2img picture")
        made["clear"] = button("clear", "Clear all")
    made["gallery"] = gr.Gallery(
        visible=False, label="What the model sees", format="png", columns=UNITS, height=260, object_fit="contain",
        interactive=False, show_share_button=False, elem_id=elem_id("seen"),
    )  # fmt: skip
    made["describe"], made["caption"] = describe, panel_caption.build(elem_id)
    made["size"] = [gr.Number(_SIDE, visible=False, label=f"Picture's {side}") for side in ("width", "height")]
    for component in made["size"]:
        component.do_not_save_to_config = True
    tab = "img2img" if "img2img" in elem_id("units") else "txt2img"
    made["js"] = _SIZE_OF_THE_PICTURE.replace("TAB", tab).replace("SIDE", str(_SIDE))
    return made


def listen(buttons: dict[str, Any], made: dict[str, Any], host: Host) -> None:
    """Give the buttons what they do.

    Args:
        made: The controls of all options, by their names.
    """
    pair = [made[numbered(option.name, number)] for number in (1, 2) for option in UNIT_OPTIONS]
    buttons["swap"].click(_swapped, inputs=pair, outputs=pair, show_progress="hidden")
    own = [option.name for option in _CLEARED]
    buttons["clear"].click(
        _cleared, inputs=[made["preset"]], outputs=[made[name] for name in own], show_progress="hidden"
    )
    buttons["seen"].click(
        functools.partial(_seen, host),
        inputs=[*buttons["size"], *(made[option.name] for option in OPTIONS)],
        outputs=[buttons["gallery"]],
        show_progress="hidden",
        js=buttons["js"],
    )
    panel_caption.listen(buttons["describe"], buttons["caption"], (buttons["size"], buttons["js"]), made, host)


def _swapped(*values: Any) -> list:
    half = len(values) // 2
    return [*values[half:], *values[:half]]


def _cleared(preset: str) -> list:
    """Every reference gone, and its settings as they are by themselves; what the chosen preset sets, as it has it."""
    values = of_preset(preset)
    return [gr.update(value=values.get(option.name, option.default)) for option in _CLEARED]


def _seen(host: Host, width: float, height: float, *values: Any) -> Any:
    try:
        from ..preview import seen  # torch is behind it: late

        settings = Settings.from_positions(values)
        found = seen(settings, (int(width or _SIDE), int(height or _SIDE)))
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        return gr.update(visible=False)
    if not found:
        gr.Info("Z-Image VL: there is no reference to show.")
        return gr.update(visible=False)
    host.ensure_temp_folder()
    return gr.update(visible=True, value=[(each.image, _words(number, each)) for number, each in found.items()])


def _words(number: int, seen: Any) -> str:
    counted = f"{seen.tokens} tokens" if seen.kept == seen.tokens else f"{seen.kept} of {seen.tokens} tokens"
    return f"Reference {number}: {counted}"
