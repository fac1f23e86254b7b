"""The web UI's cache of one slot: it serves what is the same, and nothing else."""

from __future__ import annotations

import os
from typing import Any

import pytest
import tiny
import torch
from host_fixtures import WebUI
from host_runs import CAT, CHANGES, DOG, close, conds, same

pytest_plugins = ["host_fixtures"]


def test_on_off_on(web: WebUI, picture: Any) -> None:
    off = web.plain()
    on = web.run(web.p(), reference=picture)
    off_again = web.run(web.p(), False)
    on_again = web.run(web.p(), reference=picture)
    assert same(off_again.c, off.c)
    assert same(on_again.c, on.c)
    assert not same(on.c, off.c)


def test_the_same_settings_hit_the_cache(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    web.events.clear()
    again = web.run(web.p(), reference=tiny.encoded(picture, "PNG"))  # the same picture, come in another way
    assert again.c is first.c
    assert not web.events
    assert again.extra_generation_params == first.extra_generation_params


@pytest.mark.parametrize(("name", "value"), CHANGES.items(), ids=CHANGES)
def test_a_changed_setting_is_a_new_conditioning(web: WebUI, picture: Any, name: str, value: Any) -> None:
    # A base in which every option matters.
    base = {"reference": picture, "token_mode": "all", "outlier_repair": "clamp", "outlier_threshold": 1.1}
    first = web.run(web.p(), **base)
    changed = web.run(web.p(), **base | {name: value})
    assert not same(changed.c, first.c)
    assert same(web.run(web.p(), **base).c, first.c)


def test_another_reference_is_a_new_conditioning(web: WebUI, picture: Any, other_picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    second = web.run(web.p(), reference=other_picture)
    assert not same(first.c, second.c)
    assert same(web.run(web.p(), reference=picture).c, first.c)


def test_weights_that_change_on_disk_are_read_again(web: WebUI, picture: Any, vl_model: Any, tokenizer: Any) -> None:
    folder = tiny.save_folder(vl_model, tokenizer, web.weights / "mine")
    first = web.run(web.p(), reference=picture, model="mine")
    state = {name: value * 1.01 for name, value in tiny.inner_state(vl_model).items()}
    tiny.save_single(state, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = web.run(web.p(), reference=picture, model="mine")
    assert web.events.count("load") == 2
    assert not same(first.c, second.c)


def test_another_checkpoint_of_the_same_architecture(web: WebUI, make_engine: Any, picture: Any, by_hand: Any) -> None:
    web.run(web.p(), reference=picture)
    other = make_engine(seed=9, filename="another.safetensors")
    web.use(other)
    assert close(conds(web.run(web.p(), reference=picture))[0], by_hand.blended(other, CAT))


def test_a_failed_run_leaves_the_cache_as_it_was(web: WebUI, picture: Any, refused: Any) -> None:
    first = web.run(web.p(), reference=picture)
    for broken in (
        {"reference": "no picture"},
        {"reference": picture, "model": "none of that name"},
        {"reference": picture, "hidden_layer": -30},
    ):
        with refused():
            web.run(web.p(DOG), **broken)
    web.events.clear()
    assert web.run(web.p(), reference=picture).c is first.c
    assert not web.events


def test_a_cached_conditioning_is_never_written_to(web: WebUI, picture: Any) -> None:
    plain, on = web.plain(), web.run(web.p(DOG), reference=picture)
    before = [tensor.clone() for tensor in conds(plain) + conds(on)]
    for settings in ({"alpha": 0.7}, {"blend_mode": "adain"}, {"outlier_repair": "scale", "outlier_threshold": 1.0}):
        web.run(web.p(DOG), reference=picture, **settings)
    assert all(torch.equal(a, b) for a, b in zip(conds(plain) + conds(on), before))
