"""The panel's descriptions: words as they come, an end at any time, and where they go."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
import tiny
from panel_fixtures import Built, elem_id

from zvl_ext.caption import Asked, Caption
from zvl_ext.errors import ZvlError
from zvl_ext.options import UNITS, Settings
from zvl_ext.webui.host import WebUI

pytest_plugins = ["host_fixtures", "panel_fixtures"]

WORDS = ("a ", "red ", "cat")


class Telling(WebUI):
    """A host whose model says the same of everything, or what a test puts in."""

    def __init__(self) -> None:
        self.asked: list[tuple[Settings, int, Asked]] = []
        self.begun, self.gone = threading.Event(), threading.Event()
        self.endless = False
        self.raises: BaseException | None = None

    def busy(self) -> bool:
        return False

    def describe(self, settings: Settings, number: int, asked: Asked) -> Caption:
        self.asked.append((settings, number, asked))
        for word in WORDS:
            asked.on_text(word)
            self.begun.set()
        if self.raises is not None:
            raise self.raises
        while self.endless and not asked.stopped():
            time.sleep(0.01)
        self.gone.set()
        return Caption("".join(WORDS), 3, "whole")


@pytest.fixture
def host() -> Telling:
    return Telling()


@pytest.fixture
def page(web: Any, host: Telling) -> Built:
    return Built(host)


def described(page: Built, number: int = 1, turn: list[int] | None = None, **values: Any) -> Iterator[tuple]:
    """What the button of a reference gives, with these values in the controls."""
    (event,) = page.events(page.button(f"describe_{number}"), "click")
    named = {f"describe_{name}": name for name in ("length", "language", "instruction")}
    given = []
    for component in event.inputs:
        name = next((n for n, control in page.controls.items() if control is component), None)
        name = name or next((n for e, n in named.items() if component.elem_id == elem_id(e)), "")
        kept = turn if isinstance(component, gr.State) and turn is not None else component.value
        given.append(values.get(name, kept))
    return event.fn(*given)


@pytest.mark.parametrize("number", range(1, UNITS + 1))
def test_the_words_of_each_reference_come_as_they_are_written(page: Built, host: Telling, number: int) -> None:
    texts = list(described(page, number, length="short", language="German", instruction=" Why? ", crop="pad"))
    assert [text for _, text in texts] == ["", "a ", "a red ", "a red cat"]
    assert texts[0][0]["visible"]
    ((settings, of, asked),) = host.asked
    assert (of, settings.crop) == (number, "pad")
    assert (asked.wish.length, asked.wish.language, asked.wish.question) == ("short", "German", "Why?")
    assert asked.shape == (1024, 1024)


@pytest.mark.parametrize("how", ["stop", "another", "closed"])
def test_it_ends_when_nobody_wants_it_any_more(page: Built, host: Telling, how: str) -> None:
    host.endless, turn = True, [0]
    words = described(page, turn=turn)
    for _ in range(4):
        last = next(words)
    assert last[1] == "a red cat"
    if how == "closed":
        words.close()
    elif how == "stop":
        (event,) = page.events(page.button("describe_stop"), "click")
        event.fn(turn)
    else:
        host.endless = False
        assert [text for _, text in described(page, 2, turn=turn)][-1] == "a red cat"
    assert host.gone.wait(10)
    assert list(words) == []


def test_a_page_stops_its_own_and_no_other(page: Built, host: Telling) -> None:
    host.endless = True
    mine, others = [0], [0]
    words = described(page, turn=mine)
    next(words), next(words)
    (event,) = page.events(page.button("describe_stop"), "click")
    event.fn(others)
    assert not host.gone.wait(0.1)
    event.fn(mine)
    assert host.gone.wait(10)
    assert [text for _, text in words][-1:] == ["a red cat"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"length": "huge"}, "length"),
        ({"language": "x" * 50}, "language"),
        ({"instruction": "x" * 9000}, "4000"),
        ({"alpha": "much"}, "alpha"),
    ],
)
def test_what_can_not_be_asked_is_a_line(
    page: Built, host: Telling, notices: list[str], values: dict, says: str
) -> None:
    (update, text), *_ = described(page, **values)
    assert (update["visible"], text) == (False, "")
    (line,) = notices
    assert line.startswith("Z-Image VL: ")
    assert says in line
    assert host.asked == []


def test_what_goes_wrong_is_a_line_and_what_was_written_stays(page: Built, host: Telling, notices: list[str]) -> None:
    host.raises = ZvlError("Not enough memory.")
    *_, (update, text) = described(page)
    assert (update["visible"], text) == (True, "a red cat")
    assert notices == ["Z-Image VL: Not enough memory."]
    host.raises = KeyError("traceback")
    *_, (update, text) = described(page)
    assert text == "a red cat"
    assert notices[1].startswith("Z-Image VL: Something unexpected")


def test_an_empty_panel_says_that_there_is_nothing_to_describe(built: Built, notices: list[str]) -> None:
    *_, (update, text) = described(built)
    assert (update["visible"], text) == (False, "")
    assert notices == ["Z-Image VL: There is no reference 1 to describe. Drop a picture there first."]


def test_the_real_model_of_the_web_ui_is_asked(built: Built, notices: list[str]) -> None:
    built.controls["reference_2"].value = None
    texts = list(described(built, 2, reference_2=tiny.picture(64, 64), length="short"))
    assert notices == []
    assert texts


def test_words_go_to_what_qwen3_vl_reads_and_into_the_prompt(page: Built) -> None:
    (event,) = page.events(page.button("describe_read"), "click")
    assert event.outputs == [page.controls["vl_prompt"]]
    assert event.fn("{prompt}", " a cat ") == "{prompt} a cat"
    assert event.fn("", "a cat") == "a cat"
    for name in ("append", "replace"):
        button = page.button(f"describe_{name}")
        (made,) = (f for f in page.page.fns.values() if (button._id, "click") in f.targets)
        assert made.fn is None
        assert "zvl.intoPrompt('txt2img'" in made.js


def test_the_state_of_a_page_stands_last(page: Built) -> None:
    """gradio's client puts nothing in a state's place only where as much came back from the script as went in; a script
    gets the outputs as well."""
    for number in range(1, UNITS + 1):
        (event,) = page.events(page.button(f"describe_{number}"), "click")
        assert [isinstance(component, gr.State) for component in event.inputs].index(True) == len(event.inputs) - 1
