"""How much is done: which models run for a picture, how often, and in which order."""

from __future__ import annotations

from typing import Any

import tiny
from host_fixtures import LAYERS, WebUI
from host_runs import BARE, BEFORE, CAT, CHANGES, DOG, behind

from zvl_ext.mixing.statistics import REFERENCE_PROMPTS

pytest_plugins = ["host_fixtures"]


def test_each_model_has_one_phase(web: WebUI, picture: Any) -> None:
    """The text encoder reads everything, then Qwen3-VL does: neither has to make room for the other twice."""
    web.run(web.p([f"{CAT} AND a [red:blue:0.5] {DOG}", DOG, ""]), reference=picture)
    kinds = web.events.kinds()
    last_text = len(kinds) - 1 - kinds[::-1].index("text")
    assert last_text < kinds.index("load") < kinds.index("vl")
    assert kinds.count("vl") == 1 + 5, "the reference, and five texts behind it"
    assert kinds.count("load") == kinds.count("place") == kinds.count("vision") == 1
    assert kinds.count("text") == 5 + len(REFERENCE_PROMPTS)


def test_qwen3_vl_is_placed_whole_and_once_for_all_that_a_picture_reads(web: WebUI, picture: Any) -> None:
    web.run(web.p([CAT, DOG]), reference=picture, **BARE)
    assert web.events.kinds() == ["text", "text", "load", "place", "vision", "vl", "vl", "vl"]
    web.run(web.p(""), reference=picture, **BARE)
    assert web.events.kinds()[8:] == ["text", "place", "vl"]
    assert all(whole is True for whole in web.events.of("place"))


def test_a_sweep_costs_no_pass_of_any_model(web: WebUI, picture: Any) -> None:
    web.run(web.p([CAT, DOG]), reference=picture)
    web.events.clear()
    for name in (
        "alpha",
        "token_mode",
        "scale_to_text",
        "normalization",
        "length_match",
        "blend_mode",
        "outlier_repair",
        "outlier_threshold",
    ):
        web.run(web.p([CAT, DOG]), reference=picture, **{name: CHANGES[name]})
    assert not web.events


def test_what_does_cost_a_pass(web: WebUI, picture: Any, other_picture: Any, tokenizer: Any) -> None:
    base = {"reference": picture, **BARE}
    web.run(web.p(), **base)
    (tail,), depth = behind(web), LAYERS - 8 + 1

    def read(prompt: str = CAT, **changed: Any) -> tuple[list, int]:
        with tiny.work() as done:
            web.run(web.p(prompt), **base | changed)
        return done.read, done.looks

    assert read(hidden_layer=-7) == (tiny.layers(depth, depth + 1, BEFORE) + tiny.layers(depth, depth + 1, tail), 0), (
        "it goes on from layer -8"
    )
    assert read(hidden_layer=-9) == ([], 0), "it has been passed"
    system = len(tokenizer.encode("<|im_start|>system\nLook.<|im_end|>\n").ids)
    for changed, more in (
        ({"reference": other_picture}, 4 - 6),
        ({"reference_tokens": 4}, 2 - 6),
        ({"system_prompt": "Look."}, system),
    ):
        assert read(**changed) == (tiny.layers(0, depth, BEFORE + more) + tiny.layers(0, depth, tail), 1), changed
    assert read(vl_prompt="") == (tiny.layers(0, depth, 5), 0), "the template's end alone"
    assert read(DOG) == (tiny.layers(0, depth, behind(web)[-1]), 0)
    assert (web.events.count("load"), web.events.of("deepen")) == (1, [depth + 1])


def test_the_text_encoder_is_measured_once_and_only_if_needed(web: WebUI, picture: Any) -> None:
    web.run(web.p(CAT), reference=picture, **BARE)
    assert web.events.count("text") == 1
    web.run(web.p(CAT), reference=picture)
    assert web.events.count("text") == 1 + len(REFERENCE_PROMPTS), "the prompt has been read"
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("text") == 2 + len(REFERENCE_PROMPTS)
