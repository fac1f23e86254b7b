"""The stand-in of the web UI agrees with the real one on what the contract's tests rely on."""

from __future__ import annotations

from typing import Any

import hosts
import pytest
from host_runs import CAT
from modules import prompt_parser


@pytest.mark.skipif(not hosts.REAL, reason="compares the stand-in with a real web UI: set ZVL_HOST")
def test_the_stand_in_agrees_with_the_real_web_ui() -> None:
    """On everything that the other tests here rely on: schedules, parts and weights, and the line under the picture."""
    import runpy

    standin = hosts.STANDIN / "modules"
    parser = runpy.run_path(str(standin / "prompt_parser.py"))

    class Echo:
        @staticmethod
        def get_learned_conditioning(prompts: Any) -> list[str]:
            return list(prompts)

    for prompt in (
        CAT,
        "a [red:blue:0.5] apple on a [table:cat:6]",
        "a cat AND a dog :0.5 AND a cat:-0.25",
        "",
        "a [b:c:0] [d:e:20]",
    ):
        theirs, ours = (
            [
                [(part.weight, part.schedules) for part in line]
                for line in function(Echo, prompt_parser.SdConditioning([prompt]), 8).batch
            ]
            for function in (
                prompt_parser.get_multicond_learned_conditioning,
                parser["get_multicond_learned_conditioning"],
            )
        )
        assert [[(w, [tuple(e) for e in s]) for w, s in line] for line in theirs] == [
            [(w, [tuple(e) for e in s]) for w, s in line] for line in ours
        ]
    infotext = runpy.run_path(str(standin / "infotext_utils.py"))
    from modules import infotext_utils

    for text in (
        "plain",
        "a, b",
        "a: b",
        "two\nlines",
        '"quoted"',
        "512x512",
        "=",
        "",
        "back\\slash, \\",
        "日本: 🍎",
        " blank ",
    ):
        assert infotext["quote"](text) == infotext_utils.quote(text)
        line = f"{CAT}\nSteps: 8, Sampler: Euler, CFG scale: 1, Key: {infotext_utils.quote(text)}, Version: 1"
        theirs, ours = infotext_utils.parse_generation_parameters(line), infotext["parse_generation_parameters"](line)
        assert {key: theirs.get(key) for key in ours} == ours
        assert [key for key in theirs if key.startswith("Key")] == [key for key in ours if key.startswith("Key")]
