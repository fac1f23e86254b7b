"""Whatever is sent: a value is right or refused in a line, texts are bounded, and a picture's parameters come back."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

import hosts  # noqa: F401  enters the web UI
import hypothesis
import pytest
import tiny
from bounds import bounded, generated
from host_fixtures import WebUI
from hypothesis import strategies as st
from infotexts import WRITTEN, parsed

from zvl_ext import texts
from zvl_ext.declaration import Option
from zvl_ext.effects import idle
from zvl_ext.errors import ZvlError, line_of
from zvl_ext.options import BY_NAME, OPTIONS, PROMPT, Settings
from zvl_ext.reference import open_reference
from zvl_ext.regions import INPAINT, NAMED_REGIONS
from zvl_ext.webui import infotext, request
from zvl_ext.weighting import NAMED_BLOCKS

LINE = 300  # characters of a refusal


class Odd(enum.Enum):
    """Values that can't be shown, by their names: more digits than Python writes out, about the deepest object that the
    web UI's JSON parser lets through."""

    HUGE = "1" + "0" * 4000
    NEGATIVE = "-1" + "0" * 4000
    DEEP = "[" * 900 + "]" * 900

    @property
    def sent(self) -> Any:
        return 10**1000 * json.loads(self.value) if self is not Odd.DEEP else json.loads(self.value)


def sent(value: Any) -> Any:
    """A generated value as it is sent."""
    if isinstance(value, list):
        return [sent(each) for each in value]
    if isinstance(value, dict):
        return {key: sent(each) for key, each in value.items()}
    return value.sent if isinstance(value, Odd) else value


text = st.text(max_size=40)
broken_text = st.text(
    st.characters(codec=None, categories=None, whitelist_categories=("Cs", "Lu")), min_size=1, max_size=5
)
plain = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(), st.sampled_from([*Odd, 2**64]), text, broken_text
)
anything = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)), max_leaves=8
)


def right(option: Option) -> st.SearchStrategy[Any]:
    """Values that an option takes."""
    if option.kind == "switch":
        return st.booleans()
    if option.kind == "choice":
        return st.sampled_from(option.choices)
    if option.kind == "integer":
        return st.integers(int(option.minimum), int(option.maximum))
    if option.kind == "number":
        return st.floats(option.minimum, option.maximum)
    if option.kind == "blocks":
        part = st.one_of(st.sampled_from([*NAMED_BLOCKS]), st.integers(0, 999).map(str))
        factor = st.one_of(st.just(""), st.floats(0, 8).map(lambda f: f":{f:.3f}"))
        return st.lists(st.builds(str.__add__, part, factor), min_size=1, max_size=6).map(", ".join)
    if option.kind == "region":
        share = st.integers(1, 100).map(lambda right: f"0, 0, {right}%, 1")
        return st.one_of(st.sampled_from([*NAMED_REGIONS, INPAINT]), share)
    if option.kind == "layers":
        part = st.builds(lambda layer, factor: f"{layer}:{factor:.2f}", st.integers(-36, -1), st.floats(0.1, 1))
        return st.lists(part, max_size=3, unique_by=lambda text: text.partition(":")[0]).map(", ".join)
    if option.kind in ("image", "mask"):
        return st.just("not opened here")
    if option.kind == "images":
        return st.lists(st.just("not opened here"), max_size=3)
    return st.text(max_size=60)


def refused_or(make: Any) -> Any:
    """What comes of it, within the bounds; None where it is refused as it should be."""
    with bounded():
        try:
            return make()
        except ZvlError as error:
            said = str(error), line_of(error)
    for line in said:
        assert len(line) <= LINE, line
        assert len(line.splitlines()) == 1, line
        line.encode()  # a reply has to be written
    return None


@generated(200)
@hypothesis.given(st.sampled_from(OPTIONS), anything)
@hypothesis.example(BY_NAME["alpha"], Odd.HUGE)
@hypothesis.example(BY_NAME["hidden_layer"], Odd.NEGATIVE)
@hypothesis.example(BY_NAME["token_mode"], Odd.DEEP)
@hypothesis.example(BY_NAME["vl_prompt"], "cat \ud83d")
@hypothesis.example(BY_NAME["blocks"], "\udc00")
@hypothesis.example(BY_NAME["model"], "\ud83d" * 600)
@hypothesis.example(BY_NAME["system_prompt"], "x" * 10_001)
@hypothesis.example(BY_NAME["blocks"], "all," * 10**6)
@hypothesis.example(BY_NAME["engine"], "\u2028\x1b[2J" * 30)
def test_a_value_is_an_options_own_or_refused(option: Option, value: Any) -> None:
    checked = refused_or(lambda: option.check(sent(value)))
    if checked is not None and option.kind not in ("image", "images", "mask"):
        assert option.check(checked) == checked
        assert isinstance(checked, type(option.default))


@generated(150)
@hypothesis.given(st.dictionaries(st.one_of(st.sampled_from([*BY_NAME]), text, broken_text), anything, max_size=4))
@hypothesis.example({"x" * 10**6: 1})
@hypothesis.example({"\ud83d": 1})
@hypothesis.example({"alhpa\n": Odd.HUGE})
@hypothesis.example({"reference": Odd.DEEP, "alpha": [[]]})
@hypothesis.example({"reference_batch": [Odd.DEEP], "reference_2": "x"})
@hypothesis.example({"reference_batch": ["x"] * 10_000})
def test_a_request_by_names_is_read_or_refused(values: dict) -> None:
    settings = refused_or(lambda: request.parse([sent(values)], {}))
    if settings is not None:
        assert settings.enabled == values.get("enabled", bool(settings.units or settings.reference_batch))


@generated(150)
@hypothesis.given(st.lists(anything, max_size=len(OPTIONS) + 3))
@hypothesis.example([{}, {}])
@hypothesis.example([Odd.DEEP] * 40)
def test_a_request_in_order_is_read_or_refused(values: list) -> None:
    settings = refused_or(lambda: request.parse(sent(values), {}))
    if settings is not None and not request.named(values):
        assert Settings.from_positions([getattr(settings, option.name) for option in OPTIONS]) == settings
    with bounded():
        request.unread(sent(values))


@generated(100)
@hypothesis.given(
    st.lists(st.one_of(st.just(PROMPT), st.text(max_size=30)), max_size=8).map("".join),
    st.integers(1, 2000),
    st.text(max_size=20),
    st.integers(1, 800),
)
@hypothesis.example(PROMPT, 90_000, "x", 12_000)  # 0.8 MB that were 1.2 GB of text
@hypothesis.example(PROMPT + "{", 1, PROMPT, 2000)
@hypothesis.example("\N{RED APPLE}", 9_000, "", 1)
def test_a_text_with_the_prompt_in_it_is_bounded(own: str, times: int, prompt: str, repeated: int) -> None:
    asked: list[int] = []

    def encode(text: str) -> list[int]:
        asked.append(len(text))
        return [0] * len(text.encode())  # as many tokens as there can be

    whole = refused_or(lambda: texts.filled("vl_prompt", own * times, prompt * repeated, encode))
    assert all(length <= texts.MOST_CHARACTERS for length in asked)
    if whole is not None:
        assert whole == (own * times).replace(PROMPT, prompt * repeated)
        assert len(whole.encode()) <= texts.MOST_TOKENS


@pytest.fixture(scope="module")
def reference() -> Any:
    return open_reference(tiny.picture(32, 32, seed=1))


# All values of a picture at once, by name.
settings = st.fixed_dictionaries(
    {option.name: right(option) for option in OPTIONS if option.kind not in ("image", "mask") and option.unit < 2}
)


@generated(120)
@hypothesis.given(settings)
@hypothesis.example({"vl_prompt": " ", "system_prompt": "\t\n"})
@hypothesis.example({"vl_prompt": "512x512", "system_prompt": '\\", Seed: 7, X: "', "model": "a, b"})
@hypothesis.example({"alpha": 5e-324, "start": 0.1 + 0.2})
def test_a_pictures_parameters_bring_back_what_acted(reference: Any, values: dict) -> None:
    with bounded():
        made = Settings.from_mapping(values)
        written = infotext.write(made, {"reference": reference.digest}, made.model)
        parameters = parsed(WebUI, written)
    silent = idle(made)
    for option in WRITTEN:
        if option.name in silent or option.name in ("scale_to_text", "normalization"):
            continue
        assert infotext.read(option, parameters) == getattr(made, option.name), option.name
    assert parameters["Prompt"] == "a cat, a dog: both"
    assert dataclasses.asdict(made)["model"] == (infotext.read(BY_NAME["model"], parameters) or "")


@generated(100)
@hypothesis.given(st.dictionaries(st.sampled_from(infotext.KEYS), st.text(max_size=30), max_size=6))
@hypothesis.example({infotext.MARK: "0.2.0", "ZVL alpha": "nan", "ZVL layer": "1e400", "ZVL blocks": "all," * 999})
@hypothesis.example({infotext.MARK: "", "ZVL text": "=" + "x" * 10**6})
def test_parameters_that_anybody_wrote_are_read_or_passed_over(parameters: dict) -> None:
    with bounded():
        for option in OPTIONS:
            value = infotext.read(option, parameters)
            if value is not None and option.kind not in ("image", "model", "text"):
                assert option.check(value) == value
        infotext.preset(parameters)
