"""Qwen3-VL alone makes the picture: at alpha 1, where nothing of it is needed, the text encoder is not touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import newer_host
import pytest
import torch
from backend import memory_management as mm
from host_fixtures import WebUI
from host_runs import BARE, CAT, DOG, conds, restarted, rows, same

from zvl_ext.hosts import forge_encoder
from zvl_ext.webui import making_references

pytest_plugins = ["host_fixtures", "sampling"]

ALONE = {**BARE, "alpha": 1.0}
WAYS = {
    "text": {},
    "image": {"token_mode": "image"},
    "image, no markers": {"token_mode": "image_no_markers"},
    "all": {"token_mode": "all"},
    "truncated": {"token_mode": "image", "length_match": "truncate"},
    "inserted": {"token_mode": "all", "length_match": "insert"},
    "inserted, strong, merged": {"token_mode": "all", "length_match": "insert", "weight": 1.5, "merge": 2},
    "normalization none": {"scale_to_text": True, "normalization": "none"},
    "a text of its own": {"vl_prompt": "in oil", "token_mode": "all"},
    "system": {"system_prompt": "Look."},
}
NEEDED = {
    "alpha": {"alpha": 0.99},
    "normalization": {"scale_to_text": True, "normalization": "global"},
    "sink-aware": {"scale_to_text": True, "normalization": "sink_aware"},
    "outliers": {"outlier_repair": "clamp"},
    "slerp": {"blend_mode": "slerp"},
    "adain": {"blend_mode": "adain"},
    "the prompt's own rows": {"token_mode": "image", "length_match": "insert"},
    "a small weight": {"token_mode": "all", "length_match": "insert", "weight": 0.5},
    "steps": {"start": 0.2},
    "a curve": {"curve": "ease in", "token_mode": "image"},
    "another text": {"token_mode": "all", "length_match": "insert", "vl_prompt": ""},
    "splice": {"engine": "splice", "hidden_layer": -2},
}


@pytest.fixture
def read(web: WebUI) -> list[int]:
    """How many tokens each text has that the text encoder has really read."""
    seen: list[int] = []
    first = forge_encoder.language_model(web.engine).layers[0]
    first.post_attention_layernorm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    return seen


@contextlib.contextmanager
def forbidden(web: WebUI) -> Iterator[None]:
    """A text encoder that can neither be run nor moved, nor loaded by the web UI."""
    encoder, patcher = web.engine.text_encoder, web.engine.forge_objects.clip.patcher

    def fails(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the text encoder was asked")

    with pytest.MonkeyPatch.context() as patch:
        for module in encoder.modules():
            if module is not encoder:  # which hands over to the one inside
                patch.setitem(vars(module), "forward", fails)
        patch.setitem(vars(encoder), "to", fails)
        loaded = [entry.model is patcher for entry in mm.current_loaded_models].count(True)
        yield
        assert [entry.model is patcher for entry in mm.current_loaded_models].count(True) == loaded
        assert all(entry.model is not None for entry in mm.current_loaded_models)


def needed(patch: pytest.MonkeyPatch) -> None:
    """As if everything of the text encoder were needed."""
    patch.setattr(making_references, "makes_alone", lambda settings: False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("studio")  # an image model, whose attention can be weighted
def test_the_picture_is_the_same_to_the_last_bit_and_the_text_encoder_is_not_asked(
    web: WebUI, read: list[int], picture: Any, way: str, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patch:
        needed(patch)
        want = web.run(web.p([CAT, f"a (red:1.3) {DOG} BREAK sky"]), reference=picture, **ALONE | WAYS[way])
    assert read
    shifts = list(web.engine.shifts)
    restarted(web)
    web.engine.shifts.clear()
    with forbidden(web):
        got = web.run(web.p([CAT, f"a (red:1.3) {DOG} BREAK sky"]), reference=picture, **ALONE | WAYS[way])
    assert same(got.c, want.c)
    assert [(each.dtype, each.device) for each in conds(got)] == [(each.dtype, each.device) for each in conds(want)]
    assert web.engine.shifts == shifts
    assert got.extra_generation_params == want.extra_generation_params


@pytest.mark.parametrize("way", NEEDED)
@pytest.mark.usefixtures("studio")
def test_where_something_of_it_is_needed_it_reads(web: WebUI, read: list[int], picture: Any, way: str) -> None:
    web.run(web.p(), reference=picture, **ALONE | NEEDED[way])
    assert read


def test_schedules_and_AND_are_the_web_uis_own(web: WebUI, picture: Any, monkeypatch: Any) -> None:  # noqa: N802
    prompt = f"{CAT} AND a [red:blue:0.5] {DOG}"
    with monkeypatch.context() as patch:
        needed(patch)
        want = web.run(web.p(prompt), reference=picture, **ALONE)
    restarted(web)
    with forbidden(web):
        assert same(web.run(web.p(prompt), reference=picture, **ALONE).c, want.c)


def test_with_guidance_only_the_negative_prompt_is_read(web: WebUI, read: list[int], picture: Any) -> None:
    plain = web.plain(cfg_scale=4.0)
    restarted(web)
    read.clear()
    p = web.run(web.p(cfg_scale=4.0), reference=picture, **ALONE)
    assert len(read) == 1
    assert same(p.uc, plain.uc)
    assert not same(p.c, plain.c)


def test_a_negative_reference_alone_leaves_the_prompt_to_the_text_encoder(
    web: WebUI, read: list[int], picture: Any
) -> None:
    p = web.run(web.p(cfg_scale=4.0), reference=picture, negative=True, **ALONE)
    assert len(read) == 1
    assert same(p.c, web.plain().c)
    assert all(each.isfinite().all() for each in rows(p.uc))


def test_two_references_need_the_prompts_own_rows(
    web: WebUI, read: list[int], picture: Any, other_picture: Any
) -> None:
    web.run(web.p(), reference=picture, reference_2=other_picture, **ALONE)
    assert read


def test_what_was_not_read_is_read_when_it_is_needed_and_then_known(web: WebUI, read: list[int], picture: Any) -> None:
    """A sweep over alpha that goes through 1."""
    base = {"reference": picture, **BARE}
    web.run(web.p(), **base, alpha=1.0)
    assert not read
    half = web.run(web.p(), **base, alpha=0.5)
    assert len(read) == 1
    assert all(each.isfinite().all() for each in conds(half))
    web.run(web.p(DOG), **base, alpha=1.0)
    web.run(web.p(), **base, alpha=0.6)
    assert len(read) == 1


def test_a_picture_without_the_extension_follows_unharmed(web: WebUI, picture: Any, make_engine: Any) -> None:
    encoder, clip = web.engine.text_encoder, web.engine.forge_objects.clip
    before = [dict(vars(module)) for module in clip.cond_stage_model.modules()], dict(vars(clip))
    web.run(web.p(), reference=picture, **ALONE)
    assert ([dict(vars(module)) for module in clip.cond_stage_model.modules()], dict(vars(clip))) == before
    plain = web.plain()
    assert torch.equal(conds(plain)[0], web.engine.get_learned_conditioning([CAT])[0])
    assert encoder is web.engine.text_encoder


def test_whatever_fails_the_text_encoder_is_whole_again(web: WebUI, picture: Any, monkeypatch: Any) -> None:
    clip = web.engine.forge_objects.clip
    own = clip.patcher
    broken = type(web.engine.text_processing_engine_gemma)
    with monkeypatch.context() as patch:
        patch.setattr(broken, "__call__", lambda *_: (_ for _ in ()).throw(RuntimeError("odd")))
        with pytest.raises(RuntimeError, match="odd"):
            web.run(web.p(), reference=picture, **ALONE)
    assert clip.patcher is own
    assert not any("forward" in vars(module) for module in clip.cond_stage_model.modules())
    assert not any(entry.model is None for entry in mm.current_loaded_models)


def test_the_newest_parts_of_the_web_ui(web: WebUI, picture: Any, monkeypatch: Any) -> None:
    engine = web.engine
    engine.text_processing_engine_gemma = newer_host.TextEngine(engine.text_processing_engine_gemma)
    with monkeypatch.context() as patch:
        needed(patch)
        want = web.run(web.p(), reference=picture, **ALONE)
    restarted(web)
    with forbidden(web):
        assert same(web.run(web.p(), reference=picture, **ALONE).c, want.c)
