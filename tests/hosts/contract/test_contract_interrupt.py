"""Interrupt and Skip end the reading of a reference between layers, and nothing claims what did not happen."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from host_fixtures import WebUI
from host_runs import DOG, SPLICE, restarted, same
from modules import shared
from sampling import FRONT, STEPS, UNWEIGHED, Studio

from zvl_ext.hosts import forge_encoder
from zvl_ext.webui import infotext, run
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "sampling"]

PROMPT = 16  # tokens: the prompts here have fewer, and with the reference more
ENGINES = {"blend": {}, "splice": SPLICE, "mrope": {**SPLICE, "positions": "mrope"}}


class Ending:
    """The web UI's state: the user ends the picture when it has been asked for that often."""

    textinfo = None

    def __init__(self, by: str, after: int):
        self.by, self.left = by, after

    def _asked(self, by: str) -> bool:
        if by != self.by:
            return False
        self.left -= 1
        return self.left < 0

    @property
    def interrupted(self) -> bool:
        return self._asked("interrupted")

    @property
    def skipped(self) -> bool:
        return self._asked("skipped")


@contextlib.contextmanager
def counted(encoder: Any) -> Iterator[list[int]]:
    """What Qwen3-VL's layers read while the context is open, and the text encoder's of more than a prompt."""
    own, read = {type(layer) for layer in encoder.layers}, []

    def watch(module: torch.nn.Module, inputs: tuple, kwargs: dict, output: Any) -> None:
        rows = output[0] if isinstance(output, tuple) else output
        asked = type(module) in own and (rows.shape[1] > PROMPT or kwargs.get("past_key_value") is not None)
        if asked or type(module).__name__ == "Qwen3VLTextDecoderLayer":
            read.append(rows.shape[1])

    handle = torch.nn.modules.module.register_module_forward_hook(watch, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


def hooked(*modules: torch.nn.Module) -> int:
    parts = [part for module in modules for part in module.modules()]
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in parts)


@pytest.mark.parametrize("by", ["interrupted", "skipped"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_reading_ends_wherever_it_is(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch, engine: str, by: str
) -> None:
    whole = web.run(web.p(), reference=picture, **ENGINES[engine])
    plain = web.plain(DOG)
    encoder = forge_encoder.language_model(web.engine)
    hooks = hooked(encoder)
    finished: list[int] = []  # layers, before each ending
    for after in itertools.count():
        KEEPER.store.clear()
        p = web.p(DOG)
        with monkeypatch.context() as patch, counted(encoder) as read:
            patch.setattr(shared, "state", Ending(by, after))
            web.run(p, reference=picture, **ENGINES[engine])
        if p.extra_generation_params:  # nobody has asked so often
            break
        finished.append(len(read))
        assert len(read) <= after, "layers go on after the picture was ended"
        assert same(p.c, plain.c)
        assert hooked(encoder) == hooks
    assert sorted({*finished}) == list(range(len(read))), "there is a place between layers where nobody asks"
    KEEPER.store.clear()
    again = web.run(web.p(), reference=picture, **ENGINES[engine])
    assert same(again.c, whole.c)
    assert again.extra_generation_params[infotext.MARK]
    next_one = web.run(web.p(DOG), reference=picture, **ENGINES[engine])
    assert not same(next_one.c, plain.c), "the plain conditioning was kept under the reference's key"


def test_measuring_the_text_encoder_ends_too(web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = web.plain()
    with monkeypatch.context() as patch, tiny.work() as done:
        patch.setattr(shared, "state", Ending("interrupted", 3))
        p = web.run(web.p(), reference=picture, normalization="global")
    assert same(p.c, plain.c)
    assert not done.read, "the statistics come before the reading"


def test_to_stop_after_this_picture_does_not_end_it(web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SimpleNamespace(textinfo=None, interrupted=False, skipped=False, stopping_generation=True)
    with monkeypatch.context() as patch:
        patch.setattr(shared, "state", state)
        p = web.run(web.p(), reference=picture)
    assert p.extra_generation_params[infotext.MARK]
    restarted(web)
    assert same(p.c, web.run(web.p(), reference=picture).c)


# --- sampling


def ended(studio: Studio, monkeypatch: pytest.MonkeyPatch, steps: int, api: bool = False, **settings: Any) -> Any:
    """A generation that is ended after some of its steps."""
    p = studio.p(api=api)
    studio.web.run(p, reference=studio.reference, **UNWEIGHED | settings)
    if steps:
        heard, count = run.Run.during_sampling, iter(range(STEPS))  # all are sampled, and the first ones told
        monkeypatch.setattr(
            run.Run, "during_sampling", lambda own, engine: heard(own, engine) if next(count) < steps else None
        )
        studio.sample(p)
    else:
        run.current(p).before_sampling()
    monkeypatch.setattr(shared, "state", Ending("interrupted", 0))
    run.current(p).after_sampling()
    return p


@pytest.mark.parametrize("settings", [FRONT | {"weight": 0.5}, {"alpha": 0.5}], ids=["weighted", "not weighted"])
def test_a_picture_ended_before_its_first_step_claims_nothing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, settings: dict
) -> None:
    p = ended(studio, monkeypatch, 0, api=True, **settings)
    said = "Z-Image VL: the picture was ended before the reference had a part in it."
    assert p.extra_generation_params == {infotext.NOTE: said}
    assert said in p.comments
    assert not any("no effect" in line for line in p.comments)


def test_nor_one_that_is_ended_before_the_starting_step(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ended(studio, monkeypatch, 1, start=0.9).extra_generation_params
    monkeypatch.undo()


def test_one_that_had_steps_with_the_reference_says_so(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(studio, monkeypatch, 2, **FRONT | {"weight": 0.5}).extra_generation_params[infotext.MARK]


def test_a_batch_after_a_skipped_one_has_its_reference_again(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = studio.web.run(studio.web.p(), reference=studio.reference)
    KEEPER.store.clear()
    p = studio.web.p()
    with monkeypatch.context() as patch:
        patch.setattr(shared, "state", Ending("skipped", 2))
        studio.web.run(p, reference=studio.reference, alpha=0.31)
        run.current(p).after_sampling()
    assert infotext.MARK not in p.extra_generation_params
    studio.web.condition(p)
    assert p.extra_generation_params[infotext.MARK]
    assert not same(p.c, whole.c)
    assert not same(p.c, studio.web.plain().c)


def test_steps_that_leave_the_reference_no_part_are_told(studio: Studio) -> None:
    p = studio.p(api=True)
    studio.web.run(p, reference=studio.reference, **UNWEIGHED | {"start": 0.99})
    studio.sample(p)
    run.current(p).after_sampling()
    (line,) = p.comments
    assert "no step lies between the starting and the ending step" in line
    assert p.extra_generation_params == {infotext.NOTE: line}


def test_blocks_that_are_not_there_are_refused_before_anything_is_read(studio: Studio, refused: Any) -> None:
    with refused("There is no block 40: this image model has"):
        studio.web.run(studio.p(), reference=studio.reference, **FRONT | {"blocks": "0-1, 40-42"})
    assert studio.web.events.count("vision") == 0
