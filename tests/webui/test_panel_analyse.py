"""The panel's *Analyse*: what is being done, the tables, an end at any time."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
import tiny
from panel_fixtures import Built

from zvl_ext.analysis.measuring import Analysis
from zvl_ext.analysis.wanted import Wanted
from zvl_ext.errors import Stopped, ZvlError
from zvl_ext.options import Settings
from zvl_ext.webui.host import WebUI

pytest_plugins = ["host_fixtures", "panel_fixtures"]


class Telling(WebUI):
    """A host whose work a test decides."""

    def __init__(self) -> None:
        self.asked: list[tuple[Settings, int, Wanted]] = []
        self.raises: BaseException | None = None
        self.endless = False
        self.gone = threading.Event()

    def busy(self) -> bool:
        return False

    def analyse(self, settings: Settings, number: int, asked: Wanted) -> Analysis:
        self.asked.append((settings, number, asked))
        asked.on_step("reading <layers>", 1, 9)
        if self.raises is not None:
            raise self.raises
        try:
            while self.endless:
                asked.on_step("waiting", 0, 1)
                time.sleep(0.01)
        finally:
            self.gone.set()
        return super().analyse(settings, number, asked)


@pytest.fixture
def host() -> Telling:
    return Telling()


@pytest.fixture
def page(web: Any, host: Telling) -> Built:
    return Built(host)


def analysed(
    page: Built,
    turn: list[int] | None = None,
    prompt: str = "a cat",
    number: int = 1,
    attention: bool = False,
    sampled: tuple[Any, ...] = (4, 2.5, 3),
    **values: Any,
) -> Iterator:
    (event,) = page.events(page.button("analyse_statistics"), "click")
    assert isinstance(event.inputs[-1], gr.State), "its place is the last"
    by_control = {control: values[name] for name, control in page.controls.items() if name in values}
    given = [by_control.get(component, component.value) for component in event.inputs]
    given[:8] = prompt, 320, 256, *sampled, number, attention
    if turn is not None:
        given[-1] = turn
    return event.fn(*given)


def test_what_is_done_is_told_and_the_tables_come(page: Built, host: Telling, notices: list[str]) -> None:
    told = list(analysed(page, reference=tiny.picture(64, 64)))
    assert notices == []
    assert told[0] == "<p class='zvl-help'>reading &lt;layers&gt; 2 of 9 ...</p>"
    assert any("measuring the text encoder, prompt" in each for each in told)
    for title in ("Qwen3-VL against the text encoder", "Worst dimensions", "Row norms by position", "By layer"):
        assert f"<h4>{title}</h4>" in told[-1]
    assert not re.search(r"<script|https?:", told[-1])
    ((settings, number, asked),) = host.asked
    assert (number, asked.prompt, asked.shape) == (1, "a cat", (320, 256))
    assert (asked.steps, asked.cfg, asked.shift, asked.attention) == (4, 2.5, 3.0, False)
    assert settings.reference is not None


def test_the_attention_is_wanted_where_the_box_is_ticked(page: Built, host: Telling, notices: list[str]) -> None:
    host.raises = Stopped()
    list(analysed(page, attention=True, reference=tiny.picture(64, 64)))
    assert host.asked[0][2].attention
    list(analysed(page, sampled=(1e9, 1, 3), reference=tiny.picture(64, 64)))
    assert notices == ["Z-Image VL: steps must be a whole number from 1 to 100, not 1000000000.0."]


def test_a_prompt_is_shown_as_text(page: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    *_, last = analysed(page, prompt="<img src=x onerror=alert(1)>", reference=tiny.picture(64, 64))
    assert "<img src=x" not in last
    assert "&lt;img src=x" in last
    assert "data:image" not in last, "without matplotlib there are tables alone"


@pytest.mark.parametrize("how", ["stop", "another", "closed"])
def test_it_ends_when_nobody_wants_it_any_more(page: Built, host: Telling, how: str) -> None:
    host.endless, turn = True, [0]
    told = analysed(page, turn)
    next(told), next(told)
    if how == "closed":
        told.close()
    elif how == "stop":
        (event,) = page.events(page.button("stop_statistics"), "click")
        event.fn(turn)
    else:
        turn[0] += 1
    assert host.gone.wait(10)
    left = list(told)
    assert not left or left[-1] == "<p class='zvl-help'>Stopped.</p>"


def test_what_goes_wrong_is_a_line(page: Built, host: Telling, notices: list[str]) -> None:
    host.raises = ZvlError("Not enough memory.")
    assert list(analysed(page))[-1] == ""
    host.raises = KeyError("traceback")
    assert list(analysed(page))[-1] == ""
    host.raises = Stopped()
    assert "Stopped" in list(analysed(page))[-1]
    host.raises = None
    list(analysed(page))
    list(analysed(page, alpha="much"))
    assert notices[0] == "Z-Image VL: Not enough memory."
    assert notices[1].startswith("Z-Image VL: Something unexpected")
    assert notices[2] == "Z-Image VL: There is no reference 1 to analyse. Drop a picture there first."
    assert notices[3].startswith("Z-Image VL: alpha")
