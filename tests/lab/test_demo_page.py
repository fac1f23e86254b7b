"""The demonstration's page, over an untrained miniature."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("diffusers")

from zvl_ext.lab import demo
from zvl_ext.options import OPTIONS, Settings
from zvl_ext.reference import Reference

PROMPT = "a large red heart, on a white background"
OPTION = {option.name: i for i, option in enumerate(OPTIONS)}


@pytest.fixture
def page() -> Any:
    pytest.importorskip("gradio")
    from zvl_ext.webui import page

    return page


def values(**named: Any) -> list[Any]:
    made = [option.default for option in OPTIONS]
    for name, value in named.items():
        made[OPTION[name]] = value
    return made


def test_the_page_has_the_web_uis_accordion(page: Any, weights: demo.Weights) -> None:
    built = page.build(weights)
    generate = next(fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS))
    accordion = generate.inputs[-len(OPTIONS) :]
    for option, component in zip(OPTIONS, accordion):
        assert component.label == (page.TITLE if option.name == "enabled" else option.label)
        assert component.elem_id.startswith(f"zvl_txt2img_{option.name}")
    assert Settings.from_positions([c.value for c in accordion]) == Settings(model="qwen3-vl")
    assert "fonts.googleapis" not in str(built.get_config_file())


def test_the_page_says_what_memory_its_own_weights_take(page: Any, weights: demo.Weights) -> None:
    host, checkpoint = page.PageHost(weights), weights.model.extractor.checkpoint
    tower, every = (4 * checkpoint.count(prefix) for prefix in ("visual.", ""))  # float32
    room = 2**28 + 25 * 2**19  # of the 256 tokens the miniature takes 25
    assert host.memory(Settings(engine="splice")).needed == tower + room
    assert tower + room < host.memory(Settings()).needed < every + room
    line = next(
        block.value for block in page.build(weights).blocks.values() if "zvl-memory" in (block.elem_classes or [])
    )
    assert line == "<p class='zvl-help'>Qwen3-VL takes about 0.3 GiB while it reads the reference.</p>"


def test_the_page_forgets_what_its_model_has_kept(
    page: Any, weights: demo.Weights, drawn: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(page.gr, "Info", said.append)
    page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image))
    kept = weights.model.store.size
    assert kept > 0
    built = page.build(weights)
    button = next(block for block in built.blocks.values() if block.elem_id == "zvl_txt2img_forget")
    next(fn for fn in built.fns.values() if (button._id, "click") in fn.targets).fn()
    assert weights.model.store.size == 0
    assert said == [f"Z-Image VL: what was kept of references is forgotten ({kept / 2**20:.1f} MiB)."]
    assert page.PageHost(weights).forget() == 0


def test_what_the_command_line_names_is_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    built = page.build(weights, PROMPT, 7, drawn)
    image = next(block for block in built.blocks.values() if block.elem_id == "zvl_txt2img_reference")
    assert image.value
    assert {PROMPT, 7} <= {
        block.value for block in built.blocks.values() if getattr(block, "label", "") in ("Prompt", "Seed")
    }


def test_generating_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    plain, parameters, notes = page.generate(weights, PROMPT, "", 5, 1, 2.0, 2, *values())
    assert [re.search(r"Seed: (\d+)", text)[1] for text in parameters] == ["5", "6"]
    assert not any("ZVL" in text for text in parameters)
    assert notes == []
    mixed, parameters, notes = page.generate(
        weights, PROMPT, "a ring: small", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image)
    )
    assert mixed[0].tobytes() != plain[0].tobytes()
    assert f"ZVL reference: {drawn.digest[:12]}" in parameters[0]
    assert "ZVL miniature layer: -3" in parameters[0]
    assert "ZVL miniature size" not in parameters[0]
    assert "Negative prompt: a ring: small" in parameters[0].splitlines()
    assert any("-3 of 8 (as deep as -8 of 36)" in line for line in notes)


def test_a_large_reference_is_reduced_and_the_page_says_so(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    large = drawn.image.resize((320, 320))
    _, parameters, notes = page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, reference=large))
    assert "ZVL miniature size: 25" in parameters[0]
    assert any("reduced from 256 to 25 tokens" in line for line in notes)


def test_switched_off_or_at_alpha_0_the_page_makes_the_plain_picture(
    page: Any, weights: demo.Weights, drawn: Reference
) -> None:
    made = [
        page.generate(weights, PROMPT, "", 5, 1, 2.0, 1, *values(**named))
        for named in (
            {},
            {"reference": drawn.image},
            {"enabled": True},
            {"enabled": True, "reference": drawn.image, "alpha": 0.0},
        )
    ]
    assert len({pictures[0].tobytes() for pictures, _, _ in made}) == 1
    assert not any("ZVL" in parameters[0] for _, parameters, _ in made)
    assert [bool(notes) for _, _, notes in made] == [False, False, True, False]


def test_a_seed_of_ones_own_or_another_one_every_time(page: Any, weights: demo.Weights) -> None:
    seeds = {
        re.search(r"Seed: (\d+)", page.generate(weights, "", "", -1, 1, 0.0, 1, *values())[1][0])[1] for _ in range(3)
    }
    assert len(seeds) > 1


def test_what_is_wrong_is_one_line_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    built = page.build(weights)
    generate = next(fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS))
    pictures, every, parameters, said = generate.fn(
        "word " * 600, "", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image, token_mode="all")
    )
    assert (pictures, every, parameters) == ([], [], "")
    assert "zvl-error" in said
    assert "Shorten the prompt" in said
    said = generate.fn(PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, alpha=7))[3]
    assert "alpha must be a number from 0 to 1, not 7" in said
