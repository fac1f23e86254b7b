"""What a request asks, and what its sender is told."""

from __future__ import annotations

from typing import Any

import pytest
from host_fixtures import WebUI
from host_runs import CAT, SPLICE, hooks, positions, same
from published import as_published

from zvl_ext.errors import ZvlError
from zvl_ext.options import OPTIONS, Settings
from zvl_ext.webui import infotext, run

pytest_plugins = ["host_fixtures"]


def asked(web: WebUI, *args: Any, api: bool = True, prompt: str = CAT) -> Any:
    """One picture with the script's arguments as they are."""
    p = web.p(prompt, api=api)
    run.attach(p, list(args))
    return web.condition(p)


def note(p: Any) -> str:
    return p.extra_generation_params.get(infotext.NOTE, "")


# --- the named form


def test_the_named_form_with_a_reference_is_on(web: WebUI, picture: Any) -> None:
    named = as_published({"reference": picture})
    assert "enabled" not in named
    p = asked(web, named)
    assert same(p.c, web.run(web.p(), reference=picture).c)
    assert p.extra_generation_params[infotext.MARK]


def test_unless_it_says_otherwise(web: WebUI, picture: Any) -> None:
    plain = web.plain()
    p = asked(web, as_published({"reference": picture, "enabled": False}))
    assert p.c is plain.c
    assert not p.extra_generation_params
    assert not hooks(p)


@pytest.mark.parametrize("named", [{}, {"alpha": 0.3}, {"reference": None}, {"reference": ""}])
def test_without_a_reference_it_is_off_and_told(web: WebUI, named: dict) -> None:
    plain = web.plain()
    p = asked(web, named)
    assert p.c is plain.c
    assert note(p) == "Z-Image VL: the request has no reference, so the picture was made from the prompt alone."
    assert [*p.comments] == [note(p)]


def test_the_values_in_order_say_it_themselves(web: WebUI, picture: Any) -> None:
    values = positions(reference=picture)
    values[0] = False
    plain = web.plain()
    assert asked(web, *values).c is plain.c


@pytest.mark.parametrize("second", [{}, {"alpha": 0.3}, {"reference": "x"}])
def test_a_second_object_is_refused(web: WebUI, picture: Any, refused: Any, second: dict) -> None:
    for args in ([{"reference": picture}, second], [{"reference": picture}, None, second]):
        with refused("more than one object in args"):
            asked(web, *args, api=False)


def test_values_behind_the_object_are_told(web: WebUI, picture: Any) -> None:
    named = as_published({"reference": picture})
    p = asked(web, named, "blend" if OPTIONS[1].default != "blend" else "splice")
    assert "only the first object in args is read" in note(p)
    assert same(p.c, web.run(web.p(), reference=picture).c)


def test_the_panels_values_behind_the_object_are_no_mistake(web: WebUI, picture: Any) -> None:
    behind = [option.default for option in OPTIONS[1:]]
    behind[OPTIONS.index(next(o for o in OPTIONS if o.kind == "model")) - 1] = "tiny-vl"
    assert note(asked(web, as_published({"reference": picture}), *behind)) == ""


# --- what is told


def test_over_the_api_what_is_said_is_in_the_parameters_with_the_products_name_once(web: WebUI, picture: Any) -> None:
    p = web.run(web.p(api=True), reference=picture, image_dropout=0.5, positions="mrope")
    assert len(p.comments) == 2
    assert all(line.removeprefix("Z-Image VL: ") in note(p) for line in p.comments)
    assert note(p).startswith("Z-Image VL: ")
    assert note(p).count("Z-Image VL") == 1
    web.condition(p)
    assert note(p).count("Image dropout") == 1


def test_in_the_panel_it_is_under_the_picture_alone(web: WebUI, picture: Any) -> None:
    p = web.run(web.p(), reference=picture, image_dropout=0.5)
    assert len(p.comments) == 1
    assert not note(p)


def test_a_note_is_gone_with_the_next_picture_and_pastes_nothing(web: WebUI, picture: Any) -> None:
    p = web.p(api=True)
    web.run(p, reference=picture, alpha=0.0)
    assert note(p)
    assert not any(infotext.read(option, p.extra_generation_params) for option in OPTIONS)
    run.attach(p, [False])
    assert not p.extra_generation_params


def test_another_architecture_is_told_without_its_class(web: WebUI, picture: Any) -> None:
    class StableDiffusion3(type(web.engine)):
        pass

    web.engine.__class__ = StableDiffusion3
    p = web.run(web.p(api=True), reference=picture)
    assert note(p) == (
        "Z-Image VL: this checkpoint is not Z-Image or Flux.2 Klein, so the reference has no part in the picture."
    )
    assert infotext.MARK not in p.extra_generation_params


# --- what escapes


class SurpriseError(Exception):
    pass


ESCAPES = {
    "of another kind": (
        SurpriseError("it broke\nin two lines"),
        "Something unexpected went wrong (it broke in two lines)",
    ),
    "no text": (SurpriseError(), "Something unexpected went wrong (no reason given)"),
    "no Exception": (BaseException("a panic"), "Something unexpected went wrong (a panic)"),
    "half an emoji": (SurpriseError("\ud83d"), "Something unexpected went wrong (?)"),
    "deep": (RecursionError("maximum recursion depth exceeded"), "The values are nested too deeply"),
    "memory": (MemoryError(), "There is not enough memory"),
    "the card's memory": (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "There is not enough memory"),
}


@pytest.mark.parametrize("api", [False, True], ids=["panel", "API"])
@pytest.mark.parametrize(("error", "says"), ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("at", ["conditioner.condition_units", "Run._key"])
def test_whatever_is_raised_is_one_line_without_a_class(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, says: str, at: str, api: bool
) -> None:
    plain = web.plain()

    def fails(*args: Any) -> Any:
        raise error

    place, name = at.split(".")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(run, place), name, fails)
        with pytest.raises(pytest.importorskip("fastapi").HTTPException if api else ZvlError) as caught:
            web.run(web.p(api=api), reference=picture)
    shown = f"{type(caught.value).__name__}: {caught.value}"  # as the web UI's panel shows it
    told = caught.value.detail if api else shown
    assert told.startswith(f"Z-Image VL: {says}")
    assert len(told.splitlines()) == 1
    assert type(error).__name__ not in told
    if api:
        assert type(caught.value).__name__ == "Z-Image VL"  # some web UIs put it into the reply
        assert caught.value.status_code == 422
    assert same(web.run(web.p(), False).c, plain.c)


def test_what_the_web_ui_itself_raises_stays_as_it_is(web: WebUI, picture: Any, monkeypatch: Any) -> None:
    def fails(prompts: Any) -> Any:
        raise SurpriseError("the host's")

    monkeypatch.setattr(web.engine, "get_learned_conditioning", fails)
    with pytest.raises(SurpriseError, match="the host's"):
        web.run(web.p(), reference=picture)


@pytest.mark.parametrize("engine", [{}, SPLICE], ids=["blend", "splice"])
def test_values_that_are_not_finite_claim_nothing(
    web: WebUI, picture: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, engine: dict
) -> None:
    made = run.conditioner.condition_units

    def refuses(settings: Settings, *args: Any) -> Any:
        made(settings, *args)
        raise ZvlError("There are values that are not finite.")

    monkeypatch.setattr(run.conditioner, "condition_units", refuses)
    p = web.p(api=False)
    with refused("not finite"):
        web.run(p, reference=picture, **engine)
    assert not any(key in infotext.KEYS for key in p.extra_generation_params)
