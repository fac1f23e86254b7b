"""The panel's *Analyse*: what the user's own models make of a reference, as tables and plots."""

from __future__ import annotations

import functools
import html
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..analysis.wanted import SAMPLED, Wanted
from ..errors import Stopped, ZvlError, titled
from ..options import OPTIONS, UNITS, Settings
from .host import Host
from .working import Done, Turn, next_turn, worked

# What the page itself knows of the picture: it goes in front of the other values.
_OF_THE_PICTURE = """(prompt, width, height, steps, cfg, shift, ...values) => {
    const number = (name, usual) =>
        Number(document.querySelector(`#TAB_${name} input[type=number]`)?.value) || usual;
    const prompt_ = document.querySelector("#TAB_prompt textarea")?.value ?? "";
    const sampled = [["width", 1024], ["height", 1024], ["steps", 8], ["cfg_scale", 1], ["distilled_cfg_scale", 9]];
    return [prompt_, ...sampled.map(([name, usual]) => number(name, usual)), ...values];
}"""


_SAMPLED = ("width", "height", "steps", "cfg", "shift")


def build(elem_id: Callable[[str], str], host: Host) -> dict[str, Any]:
    """Its buttons, and the place of its tables; gives what `listen` needs."""
    made: dict[str, Any] = {"turn": gr.State([0])}
    with gr.Column(elem_id=elem_id("statistics")):
        with gr.Row(elem_classes=["zvl-pair"]):
            made["number"] = gr.Dropdown(
                list(range(1, UNITS + 1)), value=1, label="Reference to analyse", elem_id=elem_id("analyse_number")
            )
            made["attention"] = gr.Checkbox(
                host.makes,
                label="Measure the attention that it gets: a picture is made for that",
                visible=host.makes,
                elem_id=elem_id("attention"),
            )
        with gr.Row(elem_classes=["zvl-buttons"]):
            for name, words in (("analyse", "Analyse"), ("stop", "Stop")):
                made[name] = gr.Button(words, size="sm", min_width=60, elem_id=elem_id(f"{name}_statistics"))
        made["found"] = gr.HTML("", elem_classes=["zvl-analysis"], elem_id=elem_id("analysis"))
        made["picture"] = [
            gr.Textbox("", visible=False, label="Picture's prompt"),
            *(gr.Number(SAMPLED[name].default, visible=False, label=f"The picture's {name}") for name in _SAMPLED),
        ]
    for component in (*made["picture"], made["number"], made["attention"]):
        component.do_not_save_to_config = True
    made["tab"] = "img2img" if "img2img" in elem_id("statistics") else "txt2img"
    return made


def listen(made: dict[str, Any], controls: dict[str, Any], host: Host) -> None:
    """Give the buttons what they do.

    Args:
        controls: Of all options, by their names.
    """
    made["analyse"].click(
        functools.partial(_analyse, host),
        inputs=[
            *made["picture"],
            made["number"],
            made["attention"],
            *(controls[option.name] for option in OPTIONS),
            made["turn"],  # last: the page's client loses its place in what comes back from a script behind it
        ],
        outputs=[made["found"]],
        show_progress="hidden",
        js=_OF_THE_PICTURE.replace("TAB", made["tab"]),
    )
    made["stop"].click(next_turn_of, inputs=[made["turn"]], queue=False, show_progress="hidden")


def next_turn_of(turn: Turn) -> None:
    """Stop what a page has begun."""
    next_turn(turn)


def _analyse(host: Host, prompt: str, *rest: Any) -> Iterator[Any]:
    """What is being done, and then the tables; what is wrong is said in a line, and what was there before stays."""
    sampled, (number, attention, *values, turn) = rest[: len(_SAMPLED)], rest[len(_SAMPLED) :]
    mine = next_turn(turn)

    def stopped() -> bool:
        return bool(turn[0] != mine)

    def work(put: Callable[[Any], None]) -> str:
        from ..analysis.report import body  # torch is behind it: late

        def told(what: str, done: int, of: int) -> None:
            if stopped():
                raise Stopped
            put(f"{what} {done + 1} of {of}" if of > 1 else what)

        width, height, *more = (SAMPLED[name].check(value) for name, value in zip(_SAMPLED, sampled))
        asked = Wanted(prompt or "", (width, height), told, bool(attention), *more)
        return body(host.analyse(Settings.from_positions(values), int(number or 1), asked))

    try:
        if host.busy():
            gr.Info("Z-Image VL: the analysis waits for the picture that is being made.")
        piece: Any = None
        for piece in worked(work, stopped):
            yield piece.result if isinstance(piece, Done) else f"<p class='zvl-help'>{html.escape(piece)} ...</p>"
        if not isinstance(piece, Done):
            raise Stopped
    except Stopped:
        yield "<p class='zvl-help'>Stopped.</p>"
    except ZvlError as error:
        gr.Warning(titled(str(error)))
        yield ""
    finally:
        if turn[0] == mine:
            next_turn(turn)  # where the page has been closed
