"""The panel's descriptions: a button by each reference, and below them what Qwen3-VL says and where it can go."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..caption import LANGUAGES, LENGTHS, Asked, Caption, Wish
from ..errors import ZvlError, titled
from ..options import OPTIONS, UNITS, Settings
from .host import Host
from .working import Done, Turn, next_turn, worked

# What goes into the prompt goes there in the page: the prompt is the web UI's own.
_INTO_PROMPT = "(text) => { zvl.intoPrompt('TAB', text, REPLACE); }"


def button(number: int, elem_id: Callable[[str], str]) -> Any:
    """The button of one reference."""
    return gr.Button("Describe", size="sm", min_width=60, elem_id=elem_id(f"describe_{number}"))


def build(elem_id: Callable[[str], str]) -> dict[str, Any]:
    """What stands below the references; gives what `listen` needs."""
    usual = Wish()
    made: dict[str, Any] = {"turn": gr.State([0])}
    with gr.Accordion("How to describe", open=False, elem_id=elem_id("describe_how")):
        with gr.Row(elem_classes=["zvl-pair"]):
            made["length"] = gr.Dropdown(
                list(LENGTHS), value=usual.length, label="Description's length", elem_id=elem_id("describe_length")
            )
            made["language"] = gr.Dropdown(
                list(LANGUAGES), value=usual.language, label="Description's language", allow_custom_value=True,
                elem_id=elem_id("describe_language"),
            )  # fmt: skip
        made["instruction"] = gr.Textbox(
            label="Instruction", info="What to ask Qwen3-VL instead; empty: to describe the reference as a prompt.",
            lines=1, max_lines=6, elem_id=elem_id("describe_instruction"),
        )  # fmt: skip
    with gr.Column(visible=False, elem_id=elem_id("described")) as made["place"]:
        made["text"] = gr.Textbox(
            label="What Qwen3-VL says", lines=3, max_lines=12, show_copy_button=True, elem_id=elem_id("description")
        )
        with gr.Row(elem_classes=["zvl-buttons"]):
            for name, words in (
                ("stop", "Stop"),
                ("append", "Into the prompt"),
                ("replace", "As the prompt"),
                ("read", "Into what Qwen3-VL reads"),
            ):
                made[name] = gr.Button(words, size="sm", min_width=60, elem_id=elem_id(f"describe_{name}"))
    for name in ("length", "language", "instruction", "text"):
        made[name].do_not_save_to_config = True
    made["tab"] = "img2img" if "img2img" in elem_id("description") else "txt2img"
    return made


def listen(
    buttons: dict[int, Any], made: dict[str, Any], size: tuple[list[Any], str], controls: dict[str, Any], host: Host
) -> None:
    """Give the buttons what they do.

    Args:
        buttons: By the numbers of their references.
        size: The components of the picture's size, and the script that fills them, the first of its arguments.
        controls: Of all options, by their names.
    """
    components, script = size
    for number in range(1, UNITS + 1):
        buttons[number].click(
            functools.partial(_describe, host, number),
            inputs=[
                *components,
                *(made[name] for name in ("length", "language", "instruction")),
                *(controls[option.name] for option in OPTIONS),
                made["turn"],  # last: the page's client loses its place in what comes back from a script behind it
            ],
            outputs=[made["place"], made["text"]],
            show_progress="hidden",
            js=script,
        )
    made["stop"].click(_stop, inputs=[made["turn"]], queue=False, show_progress="hidden")
    for name, replace in (("append", "false"), ("replace", "true")):
        js = _INTO_PROMPT.replace("TAB", made["tab"]).replace("REPLACE", replace)
        made[name].click(None, inputs=[made["text"]], js=js, show_progress="hidden")
    reads = controls["vl_prompt"]
    made["read"].click(_into_read, inputs=[reads, made["text"]], outputs=[reads], show_progress="hidden")


def _describe(
    host: Host, number: int, width: float, height: float, length: Any, language: Any, instruction: Any, *rest: Any
) -> Iterator[tuple[Any, Any]]:
    """The words as they come; what is wrong is said in a line, and what was written before stays."""
    *values, turn = rest
    mine = next_turn(turn)
    text = ""
    try:
        settings = Settings.from_positions(values)
        wish = Wish(length or Wish.length, language or Wish.language, instruction or "")
        if host.busy():
            gr.Info("Z-Image VL: the description waits for the picture that is being made.")
        yield gr.update(visible=True), ""
        asked = Asked(wish, (int(width or 1024), int(height or 1024)), stopped=lambda: turn[0] != mine)
        for text in streamed(functools.partial(host.describe, settings, number), asked):
            yield gr.update(), text
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        yield gr.update(visible=bool(text)), text
    finally:
        if turn[0] == mine:
            _stop(turn)  # where the page has been closed


def streamed(describe: Callable[[Asked], Caption], asked: Asked) -> Iterator[str]:
    """What has been written so far, each time there is more. The work is done in a thread of its own: it is
    transformers' loop that calls."""
    text = ""
    for piece in worked(lambda put: describe(dataclasses.replace(asked, on_text=put)), asked.stopped):
        if not isinstance(piece, Done):
            text += piece
            yield text


def _stop(turn: Turn) -> None:
    next_turn(turn)


def _into_read(reads: str, text: str) -> str:
    """What Qwen3-VL reads, with the description behind it."""
    return " ".join(part for part in (reads.strip(), text.strip()) if part)
