"""`localizations/zh_CN.json`: the web UI replaces whole texts of the page by it, so its keys are what the page has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
from panel_fixtures import Built

from zvl_ext.options import BY_NAME, OPTIONS, UNIT_OPTIONS, UNITS
from zvl_ext.presets import ABOUT
from zvl_ext.regions import INPAINT
from zvl_ext.webui import panel, settings

pytest_plugins = ["host_fixtures", "panel_fixtures"]

ROOT = Path(__file__).parents[2]
TRANSLATED: dict[str, str] = json.loads((ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
_JAVASCRIPT = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "javascript").glob("*.js")))
# What the scripts write into the page: buttons, lines, tooltips, what stands in the title.
_BY_SCRIPT = re.compile(
    r'this\.button\("([^"]+)"|(?:title|textContent)(?:: | = )"([^"]{2,})"|return "((?:on|no)[^"]*)"'
)
# What nobody translates: the product's name, names of files, and what stands for itself.
_NAME = re.compile(r"Z-Image VL|[\W\d_]*|tiny-vl")


def texts_of(built: Built) -> set[str]:
    """All that the page shows of the panel in words that do not change: what a text node, a tooltip or a placeholder
    holds."""
    found: list[Any] = [*ABOUT.values(), *(option.help for option in OPTIONS), INPAINT]  # the last one in img2img
    for block in built.page.blocks.values():
        if isinstance(block, (gr.Number, gr.Textbox)) and not block.visible:
            continue  # it carries a value, and is never seen
        found += [getattr(block, name, None) for name in ("label", "info", "placeholder", "webui_tooltip", "tooltip")]
        found += [label for label, _ in getattr(block, "choices", None) or ()]
        if isinstance(block, gr.Button):
            found.append(block.value)
    found += [text for name in ("Balanced", "none") for text in re.findall(r">([^<]+)<", panel._about(name))]
    found += re.findall(r">([^<]+)<", panel._cost(*_UNINSERTED))
    for each in settings.SETTINGS:
        found += [each.label, f"({each.help})"]  # as the web UI's settings page has it
    found += [next(filter(None, groups)) for groups in _BY_SCRIPT.findall(_JAVASCRIPT)]
    return {" ".join(text.split()) for text in found if isinstance(text, str) and not _NAME.fullmatch(text.strip())}


_UNINSERTED = tuple(
    {"token_mode": "text", "length_match": "interpolate"}.get(name, BY_NAME[name].default)
    for name in panel.COST_OPTIONS
)
_PICTOGRAPH = re.compile("[\u2600-\u27bf\U0001f000-\U0001faff]")  # the web UI translates no text with one in it
_CHINESE = re.compile("[\u4e00-\u9fff]")


def test_every_text_of_the_panel_has_its_translation(built: Built) -> None:
    assert sorted(texts_of(built) - TRANSLATED.keys()) == []


def test_nothing_else_is_translated(built: Built) -> None:
    assert sorted(TRANSLATED.keys() - texts_of(built)) == []


def test_the_translations_are_texts_that_can_stand_there() -> None:
    for text, chinese in TRANSLATED.items():
        assert chinese == chinese.strip() != "", text
        assert _CHINESE.search(chinese) or text in ("cpu", "fp8"), text
        assert not _PICTOGRAPH.search(text), text
        for kept in re.findall(r"\{\w+\}|models/[\w/]+", text):
            assert kept in chinese, text
    for option in OPTIONS:
        for choice in option.choices:
            assert TRANSLATED[choice].startswith(choice), "the name that stands in parameters and help is there, too"


def test_what_further_references_have_is_called_alike() -> None:
    for option in UNIT_OPTIONS:
        for number in range(2, UNITS + 1):
            assert TRANSLATED[f"{option.label} {number}"] == f"{TRANSLATED[option.label]} {number}"


def test_the_file_reads_as_the_web_ui_reads_it() -> None:
    text = (ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8")
    pairs = json.loads(text, object_pairs_hook=list)
    assert len(dict(pairs)) == len(pairs), "a key stands twice"
    assert text == json.dumps(TRANSLATED, ensure_ascii=False, indent=2) + "\n"
