"""What is said under a picture of settings that have no part in it."""

from __future__ import annotations

from typing import Any

import pytest
from host_fixtures import WebUI
from host_runs import CAT, DOG, SPLICE, hooks, positions, same

from zvl_ext.webui import infotext

pytest_plugins = ["host_fixtures"]

UNHEARD = {
    "Image dropout": {"image_dropout": 0.5},
    "Positions": {"positions": "mrope"},
    "Weight": {"weight": 0.5},
    "Merge": {"merge": 2},
    "Weights in memory": {**SPLICE, "storage": "fp8"},
    "Starting step": {"start": 0.2, "length_match": "truncate", "token_mode": "image"},
}
PLAIN = {
    "alpha is 0": {"alpha": 0.0},
    "the weight is 0": {**SPLICE, "weight": 0.0},
    "the starting step is not before the ending step": {"start": 0.5, "end": 0.5},
    "no block looks at the reference": {**SPLICE, "blocks": "all:0"},
}


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
@pytest.mark.parametrize("label", UNHEARD)
def test_what_is_asked_for_in_vain_is_said_once(web: WebUI, picture: Any, label: str, api: bool) -> None:
    p = web.run(web.p([CAT, DOG], api=api), reference=picture, **UNHEARD[label])
    (line,) = p.comments
    assert line.startswith(f"Z-Image VL: {label} changes nothing here: it ")
    web.condition(p)  # the next batch of the same generation
    assert list(p.comments) == [line]


@pytest.mark.parametrize("label", UNHEARD)
def test_and_the_picture_is_the_one_without(web: WebUI, picture: Any, label: str) -> None:
    asked = UNHEARD[label]
    name = next(name for name in asked if name not in SPLICE or name == "positions")
    without = {key: value for key, value in asked.items() if key != name}
    assert same(web.run(web.p(), reference=picture, **asked).c, web.run(web.p(), reference=picture, **without).c)


def test_it_is_said_when_the_conditioning_comes_from_the_cache(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture, image_dropout=0.5)
    again = web.run(web.p(), reference=picture, image_dropout=0.5)
    assert again.c is first.c
    assert list(again.comments) == list(first.comments)
    assert len(again.comments) == 1


def test_a_picture_of_a_preset_is_told_nothing(web: WebUI, picture: Any) -> None:
    for preset in ("Research default", "Research image tokens", "Splice: faithful", "Splice: variation"):
        assert not web.run(web.p(), preset=preset, reference=picture).comments


def test_nothing_is_said_where_no_conditioning_is_made(web: WebUI, picture: Any) -> None:
    for values in ({"enabled": False}, {"reference": None}):
        p = web.run(web.p(), **{"reference": picture, "image_dropout": 0.5, **values})
        assert not any("changes nothing here" in line for line in p.comments)


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
@pytest.mark.parametrize("because", PLAIN)
def test_a_plain_picture_says_why(web: WebUI, picture: Any, because: str, api: bool) -> None:
    plain = web.plain()
    p = web.run(web.p(api=api), reference=picture, **PLAIN[because])
    assert p.c is plain.c
    assert list(p.comments) == [f"Z-Image VL: the picture is as without a reference, because {because}."]
    assert not hooks(p)
    assert p.extra_generation_params == ({infotext.NOTE: next(iter(p.comments))} if api else {})
    assert web.events.count("vision") == 0


def test_the_panels_values_say_it_too(web: WebUI, picture: Any) -> None:
    p = web.run(web.p(), *positions(reference=picture, alpha=0.0))
    assert list(p.comments) == ["Z-Image VL: the picture is as without a reference, because alpha is 0."]


def test_switched_off_or_without_a_reference_there_is_no_such_reason(web: WebUI, picture: Any) -> None:
    for values in ({"enabled": False}, {"reference": None}):
        p = web.run(web.p(), **{"reference": picture, "alpha": 0.0, **values})
        assert not p.comments
