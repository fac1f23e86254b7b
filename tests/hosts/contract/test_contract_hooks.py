"""Hooks stand on `p` and on nothing else, beside those of other extensions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from host_fixtures import WebUI
from host_runs import DOG, conds, hooks, same
from modules import prompt_parser
from published import as_published

from zvl_ext.webui import run

pytest_plugins = ["host_fixtures"]


def test_nothing_of_the_web_ui_is_replaced(web: WebUI, picture: Any) -> None:
    def state() -> list:
        return [dict(vars(type(p))), dict(vars(type(web.engine))), dict(vars(web.engine)), dict(vars(prompt_parser))]

    p = web.p()
    before = state()
    web.run(p, reference=picture)
    kept = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc", "extra_generation_params")
    for a, b in zip(before, state()):
        assert all(a[key] is b[key] for key in a if key not in kept)
        assert a.keys() == b.keys()
    assert set(hooks(p)) == {"cached_params", "get_conds_with_caching"}


def test_off_puts_no_hook_on(web: WebUI, picture: Any) -> None:
    for settings in ({"enabled": False}, {"reference": picture, "alpha": 0.0}, {"reference": None}):
        p = web.p()
        run.attach(p, [as_published({"enabled": True, **settings})])
        assert not hooks(p)


def test_copies_get_hooks_of_their_own(web: WebUI, picture: Any, other_picture: Any) -> None:
    """The X/Y/Z plot makes shallow copies; `process` is called for each."""
    p = web.p()
    run.attach(p, [as_published({"enabled": True, "reference": picture})])
    cell, off = copy.copy(p), copy.copy(p)
    run.attach(cell, [as_published({"enabled": True, "reference": other_picture})])
    run.attach(off, [{"enabled": False}])
    assert not hooks(off)
    assert hooks(cell)["cached_params"].__self__.p is cell
    assert hooks(p)["cached_params"].__self__.p is p
    assert same(web.condition(off).c, web.plain().c)
    assert same(web.condition(cell).c, web.run(web.p(), reference=other_picture).c)
    assert same(web.condition(p).c, web.run(web.p(), reference=picture).c)


def test_attached_twice_is_attached_once(web: WebUI, picture: Any) -> None:
    """Loops hand the same p to `process` again and again."""
    p = web.p()
    for alpha in (0.9, 0.5, 0.3):
        run.attach(p, [as_published({"enabled": True, "reference": picture, "alpha": alpha})])
    assert same(web.condition(p).c, web.run(web.p(), reference=picture).c)
    run.attach(p, [{"enabled": False}])
    assert not hooks(p)


class OtherExtension:
    """One that hooks p in the same two places, around whatever it finds there."""

    def __init__(self, p: Any):
        self.calls: list[str] = []
        self.inner = {name: getattr(p, name) for name in ("cached_params", "get_conds_with_caching")}
        p.cached_params, p.get_conds_with_caching = self.cached_params, self.get_conds_with_caching

    def cached_params(self, *args: Any, **kwargs: Any) -> tuple:
        self.calls.append("key")
        return (*self.inner["cached_params"](*args, **kwargs), "other")

    def get_conds_with_caching(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append("conds")
        return self.inner["get_conds_with_caching"](*args, **kwargs)


def test_another_extensions_hooks_are_kept_and_given_back(web: WebUI, picture: Any) -> None:
    p = web.p()
    other = OtherExtension(p)
    theirs = hooks(p)
    web.run(p, reference=picture)
    assert set(other.calls) == {"key", "conds"}
    assert p.cached_c[0][-2:][0] == "other"
    assert p.cached_c[0][-1][0] == "zvl"
    assert same(p.c, web.run(web.p(), reference=picture).c)
    run.attach(p, [{"enabled": False}])
    assert hooks(p) == theirs


@pytest.mark.parametrize("settings", [{"enabled": False}, {"alpha": 0.6}], ids=["off", "another alpha"])
def test_another_extensions_hooks_around_ours(web: WebUI, picture: Any, settings: dict) -> None:
    """Both hook in `process`, this one first; then the same p is processed again with other settings."""
    p = web.p()
    run.attach(p, [as_published({"enabled": True, "reference": picture})])
    OtherExtension(p)
    run.attach(p, [as_published({"enabled": True, "reference": picture, **settings})])
    web.condition(p)
    expected = web.p()
    run.attach(expected, [as_published({"enabled": True, "reference": picture, **settings})])
    assert same(p.c, web.condition(expected).c)


def test_a_nested_run_without_the_extension_does_not_disturb(web: WebUI, picture: Any) -> None:
    """A detailer makes its own p in the middle of ours, and they share the web UI's cache."""
    outer = web.run(web.p(n_iter=2), reference=picture)
    first = conds(outer)[0].clone()
    plain = web.plain(DOG)
    assert not hooks(plain)
    assert torch.equal(conds(web.condition(outer))[0], first)
    assert same(web.plain(DOG).c, plain.c)
