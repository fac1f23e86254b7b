"""Pictures within a picture, as extensions that repair faces make them, and the copies they make of a generation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from host_fixtures import WebUI
from host_runs import DOG, hooks, same
from modules import shared
from published import as_published

from zvl_ext.webui import axes, infotext, run

pytest_plugins = ["host_fixtures"]


def process_images_inner(p: Any, work: Callable[[], Any]) -> Any:
    """The web UI's function of that name, as far as another one can see it."""
    return work()


def face_pass(web: WebUI, outer: Any, args: list) -> Any:
    """ADetailer's pass for a face: another generation, with the same arguments, while the outer one's goes on."""
    inner = web.p("a face")
    inner.extra_generation_params = dict(outer.extra_generation_params)

    def make() -> Any:
        run.attach(inner, args)
        return web.condition(inner)

    return process_images_inner(outer, lambda: process_images_inner(inner, make))


@pytest.fixture
def nested(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    return lambda value: monkeypatch.setitem(shared.opts.data, "zvl_nested", value)


def test_a_face_pass_uses_the_reference(web: WebUI, picture: Any) -> None:
    outer = web.run(web.p(DOG), reference=picture)
    inner = face_pass(web, outer, [as_published({"reference": picture})])
    assert same(inner.c, web.run(web.p("a face"), reference=picture).c)
    assert inner.extra_generation_params[infotext.MARK]


def test_or_not_by_a_setting(web: WebUI, picture: Any, nested: Callable) -> None:
    nested(False)
    outer = web.run(web.p(DOG), reference=picture)
    inner = face_pass(web, outer, [as_published({"reference": picture})])
    assert same(inner.c, web.plain("a face").c)
    assert not hooks(inner)
    assert not any(key in infotext.KEYS for key in inner.extra_generation_params)
    assert outer.extra_generation_params[infotext.MARK]


@pytest.mark.parametrize("on", [True, False])
def test_the_outer_picture_loses_nothing(web: WebUI, picture: Any, nested: Callable, on: bool) -> None:
    nested(on)
    outer = web.run(web.p(DOG), reference=picture)
    before, conds, parameters = hooks(outer), outer.c, dict(outer.extra_generation_params)
    face_pass(web, outer, [as_published({"reference": picture})])
    face_pass(web, outer, [False])  # where the script is not let through, or is off there
    assert hooks(outer) == before
    assert run.current(outer) is not None
    assert outer.extra_generation_params == parameters
    assert same(web.condition(outer).c, conds)


def test_a_setting_that_is_no_switch_is_the_default(web: WebUI, picture: Any, nested: Callable) -> None:
    nested("no")
    inner = face_pass(web, web.p(DOG), [as_published({"reference": picture})])
    assert infotext.MARK in inner.extra_generation_params


def test_a_first_picture_is_not_within_another(web: WebUI, picture: Any, nested: Callable) -> None:
    nested(False)
    p = web.p()
    process_images_inner(p, lambda: web.run(p, reference=picture))
    assert p.extra_generation_params[infotext.MARK]


def test_within_a_grids_cell_the_cells_values_hold(web: WebUI, picture: Any) -> None:
    outer = web.p(DOG)
    setattr(outer, axes.VALUES, {"alpha": 0.7})
    inner = face_pass(web, outer, [as_published({"reference": picture, "alpha": 0.2})])
    assert inner.extra_generation_params["ZVL alpha"] == "0.7"


@pytest.mark.parametrize("named", [{"enabled": False}, {"reference": None}, {}])
def test_a_copy_that_is_prepared_anew_leaves_the_picture_its_parameters(web: WebUI, picture: Any, named: dict) -> None:
    """ADetailer has all scripts prepare a copy of the generation when a batch's last face is done."""
    p = web.run(web.p(), reference=picture)
    parameters = dict(p.extra_generation_params)
    assert infotext.MARK in parameters
    other = copy.copy(p)
    run.attach(other, [as_published({"reference": picture, **named})])
    assert p.extra_generation_params == parameters
    assert run.current(p) is not None


def test_the_shift_is_the_pictures_own_though_a_face_pass_has_set_another(web: WebUI, picture: Any) -> None:
    """Some web UIs set it whenever they encode a prompt, and never when they find one in their cache."""
    first = web.run(web.p(DOG, distilled_cfg_scale=3.0), reference=picture)
    if not web.engine.shifts:
        pytest.skip("this web UI's engine does not set it there")
    web.engine.shifts.append(6.0)
    again = web.run(web.p(DOG, distilled_cfg_scale=3.0), reference=picture)
    assert again.c is first.c, "it was found in the web UI's cache"
    assert web.engine.shifts[-1] == 3.0
