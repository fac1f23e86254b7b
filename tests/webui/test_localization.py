"""`localizations/zh_CN.json`: the web UI replaces whole texts of the page by it, so its keys are what the page has."""

from __future__ import annotations

import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
from panel_fixtures import Built
from PIL import Image

from zvl_ext.budget import Memory
from zvl_ext.options import BY_NAME, OPTIONS, UNIT_OPTIONS, UNITS, Settings
from zvl_ext.presets import ABOUT
from zvl_ext.regions import INPAINT
from zvl_ext.webui import panel, panel_alone, settings

pytest_plugins = ["host_fixtures", "panel_fixtures"]

ROOT = Path(__file__).parents[2]
TRANSLATED: dict[str, str] = json.loads((ROOT / "localizations" / "zh_CN.json").read_text(encoding="utf-8"))
_JAVASCRIPT = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "javascript").glob("*.js")))
# What the scripts write into the page: buttons, lines, tooltips, what stands in the title.
_BY_SCRIPT = re.compile(
    r'this\.button\("([^"]+)"|(?:title|textContent)(?:: | = )"([^"]{2,})"|return "((?:on|no)[^"]*)"'
)
# What nobody translates: the product's name, names of files, and what stands for itself.
_NAME = re.compile(r"Z-Image VL|[\W\d_]*|tiny-vl|models/qwen3_vl")
_PICTURE = Image.new("RGB", (64, 64))


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
    found += [sentence for line in lines() for sentence in by_sentence(line)]
    for each in settings.SETTINGS:
        found += [each.label, f"({each.help})"]  # as the web UI's settings page has it
    found += [next(filter(None, groups)) for groups in _BY_SCRIPT.findall(_JAVASCRIPT)]
    return {" ".join(text.split()) for text in found if isinstance(text, str) and not _NAME.fullmatch(text.strip())}


class Machine:
    """A web UI on a machine of this size, where these ways to take less are enough."""

    def __init__(self, card: int | None, free: int | None, *enough: dict[str, Any]) -> None:
        self.card, self.free, self.enough = card, free, enough

    def memory(self, settings: Settings) -> Memory:
        fits = any(all(getattr(settings, name) == value for name, value in change.items()) for change in self.enough)
        return Memory((1 if fits else 7) * 2**30, *(size and size * 2**30 for size in (self.card, self.free)))

    def text_encoder_bytes(self) -> int | None:
        return self.card and self.card * 2**30

    def obstacle(self) -> str | None:
        return None

    def models(self) -> dict[str, str]:
        return {}

    def model_folders(self) -> list[str]:
        return ["models/qwen3_vl"]


def lines() -> list[str]:
    """The texts with figures in them, in all their forms."""
    made = [panel._cost(*(BY_NAME[name].default for name in panel.COST_OPTIONS)), panel._missing(Machine(None, None))]
    changes = [change for _, change in panel._SMALLER]
    machines = [Machine(*sizes) for sizes in ((None, None), (None, 8), (None, 4), (8, 4), (8, None), (4, 4), (4, 16))]
    machines += [Machine(4, 16, *some) for n in (1, 2, 3) for some in itertools.combinations(changes, n)]
    for machine, engine, combine in itertools.product(machines, ("blend", "splice"), ("each alone", "in turn")):
        values = {"engine": engine, "combine": combine, "reference": _PICTURE, "reference_2": _PICTURE}
        made.append(panel._memory(machine, *(values.get(n, BY_NAME[n].default) for n in panel.MEMORY_OPTIONS)))
        alone = {"engine": "blend", "normalization": "none", "length_match": "interpolate", "weight": 1.0}
        made.append(panel_alone.line(machine, *(alone.get(n, BY_NAME[n].default) for n in panel_alone.OPTIONS)))
    texts = [text for line in made for text in re.findall(r">([^<]+)<", line)]
    return [*texts, "on, weight 0.6", "on, alpha 1", "on, 2 references", "on, batch of 3"]


def by_sentence(line: str) -> list[str]:
    """The keys of a line, as the script makes them."""
    source = (ROOT / "javascript" / "zvl_words.js").read_text(encoding="utf-8")
    figure, end = (re.search(rf"const {name} = /(.+)/", source)[1] for name in ("FIGURE", "SENTENCES"))
    return re.split(end, re.sub(figure, "{}", html.unescape(line).strip(), flags=re.A))


def test_what_stands_in_the_title_is_translated_in_all_its_forms() -> None:
    assert len(re.findall(r"return `on, ", _JAVASCRIPT)) == 3


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
        assert chinese.count("{}") == text.count("{}"), text
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
