"""*Analyse* in the demo's page: the miniature's numbers, and the attention in a picture that is made for it."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

pytest.importorskip("gradio")

from zvl_ext.analysis.wanted import Wanted
from zvl_ext.errors import Stopped
from zvl_ext.lab import demo
from zvl_ext.options import Settings
from zvl_ext.webui.page import PageHost


@pytest.fixture(scope="module")
def weights() -> Any:
    named = dict.fromkeys(("weights", "z_image", "qwen3_vl", "steps", "guidance", "size"))
    made = demo.open_weights(argparse.Namespace(**named, device="cpu"))
    made.sampling |= {"steps": 2}
    return made


@pytest.mark.parametrize("guidance", [0.0, 2.0])
def test_the_attention_of_each_reference_is_measured_where_it_is_asked_for(weights: Any, guidance: float) -> None:
    weights.sampling |= {"guidance": guidance}
    settings = Settings.from_mapping(
        {"reference": weights.reference(), "reference_2": weights.reference(), "weight_2": 0.2}
    )
    said: list[str] = []
    asked = Wanted(demo.PROMPT, on_step=lambda what, *more: said.append(what), attention=True)
    found = PageHost(weights).analyse(settings, 2, asked)
    one, other = (found.shares.of(number) for number in (1, 2))
    assert [len(line) for line in one] == [2] * found.shares.blocks
    assert sum(map(sum, other)) < sum(map(sum, one)), "a smaller weight"
    assert said.count("making a picture, step") == 2
    assert PageHost(weights).analyse(settings, 1, Wanted(demo.PROMPT)).shares is None


def test_what_is_stopped_makes_no_picture(weights: Any) -> None:
    def stop(what: str, done: int, of: int) -> None:
        raise Stopped

    settings = Settings.from_mapping({"reference": weights.reference()})
    with pytest.raises(Stopped):
        PageHost(weights).analyse(settings, 1, Wanted(demo.PROMPT, on_step=stop, attention=True))
