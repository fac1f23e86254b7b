"""The demonstration's page, over an untrained miniature."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

from zvl_ext.lab import demo
from zvl_ext.options import OPTIONS, Settings
from zvl_ext.presets import PRESETS
from zvl_ext.reference import Reference
from zvl_ext.webui.standalone import SWEPT, Made, Request, make, make_beside_plain, make_sweep

PROMPT = "a large red heart, on a white background"
SHOWN = ("Prompt", "Seed")


@pytest.fixture
def page() -> Any:
    pytest.importorskip("gradio")
    from zvl_ext.webui import page

    return page


def values(**named: Any) -> list[Any]:
    """What the accordion sends: the published settings, with others of one's own."""
    settings = dataclasses.replace(Settings().changed({"preset": "Research default"}), **named)
    return [getattr(settings, option.name) for option in OPTIONS]


def generates(page: Any, weights: demo.Weights, place: int = 0) -> Callable[..., Any]:
    """What the page's button for generating calls, or at place 2 the one for a sweep."""
    built = page.build(weights)
    return [fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS) and len(fn.outputs) == 4][place].fn


def made(
    weights: demo.Weights, prompt: str = PROMPT, seeds: tuple[int, ...] = (5,), negative: str = "", **named: Any
) -> Made:
    settings = Settings.from_positions(values(**named))
    sampling = weights.sampling | {"steps": 1, "guidance": 2.0}
    return make(weights, Request(prompt, settings, list(seeds), sampling, negative))


def test_the_page_has_the_web_uis_accordion_with_a_reference_switched_on(page: Any, weights: demo.Weights) -> None:
    built = page.build(weights)
    generate = next(fn for fn in built.fns.values() if len(fn.inputs) > len(OPTIONS))
    accordion = generate.inputs[-len(OPTIONS) :]
    for option, component in zip(OPTIONS, accordion):
        assert component.label == (page.TITLE if option.name == "enabled" else option.label)
        assert component.elem_id.startswith(f"zvl_txt2img_{option.name}")
    assert Settings.from_positions([c.value for c in accordion]) == Settings(model="qwen3-vl", enabled=True)
    (load,) = (fn for fn in built.fns.values() if any(event == "load" for _, event in fn.targets))
    assert load.fn()["value"].tobytes() == weights.reference().image.tobytes()
    assert load.outputs == [accordion[[option.name for option in OPTIONS].index("reference")]]
    assert "fonts.googleapis" not in str(built.get_config_file())


def test_the_page_says_what_memory_its_own_weights_take(page: Any, weights: demo.Weights) -> None:
    host, checkpoint = page.PageHost(weights), weights.model.extractor.checkpoint
    tower, every = (4 * checkpoint.count(prefix) for prefix in ("visual.", ""))  # float32
    room = 2**28 + 25 * 2**19  # of the 576 tokens the miniature takes 25
    assert host.memory(Settings(engine="splice")).needed == tower + room
    assert tower + room < host.memory(Settings(engine="blend")).needed < every + room
    line = next(
        block.value for block in page.build(weights).blocks.values() if "zvl-memory" in (block.elem_classes or [])
    )
    assert line == "<p class='zvl-help'>The vision tower takes about 0.3 GiB while it reads the reference.</p>"


def test_the_page_forgets_what_its_model_has_kept(
    page: Any, weights: demo.Weights, drawn: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(page.panel.gr, "Info", said.append)
    made(weights, enabled=True, reference=drawn.image)
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
    (load,) = (fn for fn in built.fns.values() if any(event == "load" for _, event in fn.targets))
    assert load.fn()["value"].tobytes() == drawn.image.tobytes()
    shown = {block.label: block.value for block in built.blocks.values() if getattr(block, "label", "") in SHOWN}
    assert shown == {"Prompt": PROMPT, "Seed": 7}


def test_generating(weights: demo.Weights, drawn: Reference) -> None:
    plain = made(weights, seeds=(5, 6))
    assert [re.search(r"Seed: (\d+)", text)[1] for text in plain.parameters] == ["5", "6"]
    assert not any("ZVL" in text for text in plain.parameters)
    assert plain.notes == []
    mixed = made(weights, negative="a ring: small", enabled=True, reference=drawn.image)
    assert mixed.pictures[0].tobytes() != plain.pictures[0].tobytes()
    assert f"ZVL reference: {drawn.digest[:12]}" in mixed.parameters[0]
    assert "ZVL miniature layer: -3" in mixed.parameters[0]
    assert "ZVL miniature size" not in mixed.parameters[0]
    assert "Negative prompt: a ring: small" in mixed.parameters[0].splitlines()
    assert any("-3 of 8 (as deep as -8 of 36)" in line for line in mixed.notes)


def test_a_large_reference_is_reduced_and_that_is_said(weights: demo.Weights, drawn: Reference) -> None:
    reduced = made(weights, enabled=True, reference=drawn.image.resize((320, 320)))
    assert "ZVL miniature size: 25" in reduced.parameters[0]
    assert any("reduced from 256 to 25 tokens" in line for line in reduced.notes)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({}, ""),
        ({"reference": True}, ""),
        ({"enabled": True}, "No reference image"),
        ({"enabled": True, "reference": True, "alpha": 0.0}, "because alpha is 0"),
        ({"enabled": True, "reference": True, "start": 0.5, "end": 0.5}, "because the starting step is not before"),
        ({"enabled": True, "reference": True, "preset": "Balanced", "weight": 0.0}, "because the weight is 0"),
    ],
)
def test_the_plain_picture_and_why(weights: demo.Weights, drawn: Reference, named: dict[str, Any], says: str) -> None:
    named = {**named, **({"reference": drawn.image} if "reference" in named else {})}
    if preset := named.pop("preset", None):
        own = {name: getattr(Settings().changed({"preset": preset}), name) for name in PRESETS[preset]}
        named = {**own, **named}
    same = made(weights, **named)
    assert same.pictures[0].tobytes() == made(weights).pictures[0].tobytes()
    assert "ZVL" not in same.parameters[0]
    assert bool(same.notes) == bool(says)
    assert says in "".join(same.notes)


def test_a_picture_stands_beside_the_one_without_the_reference(weights: demo.Weights, drawn: Reference) -> None:
    settings = Settings().changed({"enabled": True, "reference": drawn.image, "weight": 0.5})
    steps: list[tuple[int, int]] = []
    request = Request(PROMPT, settings, [5, 6], weights.sampling)
    both = make_beside_plain(weights, request, lambda done, of: steps.append((done, of)))
    assert both.captions == ["without the reference", "weight 0.5", "weight 0.5"]
    assert both.pictures[0].tobytes() == made(weights, seeds=(5,)).pictures[0].tobytes()
    assert len({picture.tobytes() for picture in both.pictures}) == 3
    assert len(both.measures) == 3
    assert all(0 <= share <= 1 for measured in both.measures for share in measured)
    assert steps == [(1, 3), (2, 3), (3, 3)]  # one step a picture, counted over all
    assert "ZVL" not in both.parameters[0]
    assert "ZVL weight: 0.5" in both.parameters[1]


def test_a_sweep_goes_over_the_weight_or_over_alpha(weights: demo.Weights, drawn: Reference) -> None:
    inserted = Settings().changed({"enabled": True, "reference": drawn.image})
    swept = make_sweep(weights, Request(PROMPT, inserted, [5], weights.sampling))
    assert swept.captions == [f"weight {value:g}" for value in SWEPT]
    assert len({picture.tobytes() for picture in swept.pictures}) == len(SWEPT)
    mixed = inserted.changed({"preset": "Image tokens, sink-aware"})
    swept = make_sweep(weights, Request(PROMPT, mixed, [5], weights.sampling))
    assert swept.captions == [f"alpha {value:g}" for value in SWEPT if value <= 1]


def test_a_seed_of_ones_own_or_another_one_every_time(page: Any, weights: demo.Weights) -> None:
    generate = generates(page, weights)
    seeds = {re.search(r"Seed: (\d+)", generate("", "", -1, 1, 0.0, 1, *values())[2])[1] for _ in range(3)}
    assert len(seeds) > 1


def test_the_buttons_of_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    own = values(enabled=True, reference=drawn.image)
    gallery, every, parameters, said = generates(page, weights)(PROMPT, "", 5, 1, 2.0, 1, *own)
    assert [caption for _, caption in gallery] == ["without the reference", "alpha 0.3"]
    assert parameters == every[-1]
    assert said.count("zvl-bar") == 4
    gallery, *_ = generates(page, weights, 2)(PROMPT, "", 5, 1, 2.0, 1, *own)
    assert [caption for _, caption in gallery] == [f"alpha {value:g}" for value in SWEPT if value <= 1]


def test_a_picture_that_is_stopped_is_one_line(
    page: Any, weights: demo.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pressed:
        """A stop button that is pressed as soon as the work begins."""

        clear = is_set = set = staticmethod(lambda: True)

    monkeypatch.setattr(page.threading, "Event", Pressed)
    assert "Stopped." in generates(page, weights)(PROMPT, "", 5, 1, 2.0, 1, *values())[3]


def test_what_is_wrong_is_one_line_in_the_page(page: Any, weights: demo.Weights, drawn: Reference) -> None:
    generate = generates(page, weights)
    pictures, every, parameters, said = generate(
        "word " * 600, "", 5, 1, 2.0, 1, *values(enabled=True, reference=drawn.image, token_mode="all")
    )
    assert (pictures, every, parameters) == ([], [], "")
    assert "zvl-error" in said
    assert "Shorten the prompt" in said
    said = generate(PROMPT, "", 5, 1, 2.0, 1, *values(enabled=True, alpha=7))[3]
    assert "alpha must be a number from 0 to 1, not 7" in said


# --- profiles


def test_the_page_offers_those_of_the_miniature(page: Any, weights: demo.Weights, shipped: Path) -> None:
    (control,) = [each for each in page.build(weights).blocks.values() if getattr(each, "label", "") == "Profile"]
    assert control.choices == [("None", ""), ("hard", "hard"), ("soft", "soft")]


def test_the_page_makes_pictures_with_one_and_takes_no_path(
    page: Any,
    weights: demo.Weights,
    drawn: Reference,
    shipped: Path,
) -> None:
    make = generates(page, weights)

    def asked(profile: str) -> tuple:
        settings = values(enabled=True, reference=drawn.image, **PRESETS["Balanced"], profile=profile)
        return make(PROMPT, "", 5, 1, 0, 1, *settings)

    bare, soft = asked(""), asked("soft")
    assert "ZVL profile: soft " in soft[2]
    assert "ZVL profile" not in bare[2]
    assert soft[0][-1][0].tobytes() != bare[0][-1][0].tobytes()
    assert soft[0][0][0].tobytes() == bare[0][0][0].tobytes(), "the one without the reference"
    assert "There is no profile &#x27;/etc/passwd&#x27; here (there is hard, soft)." in asked("/etc/passwd")[3]
