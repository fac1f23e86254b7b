"""The attention that references get, measured in the web UI's own blocks: the numbers are the softmax's, and the
picture is the one that is made without."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable
from typing import Any

import hosts  # enters the web UI, so it goes before everything that imports it
import numpy as np
import pytest
import torch
from backend import attention as host_attention
from backend.nn import lumina
from compare import hooks
from host_runs import CAT, DOG, conds, rows
from modules import processing, shared
from sampling import BLOCKS, FRONT, ODD_SIZE, SIZE, STEPS, UNWEIGHED, Studio

from zvl_ext.analysis.wanted import Wanted
from zvl_ext.attention_shares import AttentionShares
from zvl_ext.errors import Stopped
from zvl_ext.hosts import forge_shares
from zvl_ext.options import Settings
from zvl_ext.webui import run
from zvl_ext.webui.analyse import analysed_here
from zvl_ext.webui.kept import KEEPER
from zvl_ext.webui.sampling import WATCHED, Watched

pytest_plugins = ["host_fixtures", "sampling"]


class Attended(list):
    """Queries, keys and mask of every attention that is computed, whoever asks for it, and in which call of the image
    model."""

    def __init__(self, studio: Studio, monkeypatch: pytest.MonkeyPatch):
        super().__init__()
        self._calls = studio.calls
        self._from = len(self._calls)
        for owner, name in ((lumina, "attention_function"), (host_attention, "attention_pytorch")):
            monkeypatch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, function: Callable) -> Callable:
        def attention(q: Any, k: Any, v: Any, heads: int, mask: Any = None, *args: Any, **more: Any) -> Any:
            if not self or self[-1][0] is not q:
                self.append((q, k, mask, self._calls[-1]["cond_or_uncond"]))
            return function(q, k, v, heads, mask, *args, **more)

        return attention

    def shares(self, rows: int, patches: int, keys: slice) -> list[float]:
        """What the picture's rows give some keys, of each attention of the main blocks, for the prompts' half.

        Args:
            rows: Of the caption; those that fill it up and the picture's stand behind them.
        """
        first, found = -(-rows // 32) * 32, []
        for q, k, mask, halves in self:
            if 0 in halves and k.shape[2] >= first + patches:  # the refiners have fewer
                row = halves.index(0)
                bias = None if mask is None else mask.expand(len(q), *mask.shape[1:])[row].double().numpy()
                found.append(softmax(q[row], k[row], bias)[:, first : first + patches, keys].sum(-1).mean())
        return found


def softmax(q: torch.Tensor, k: torch.Tensor, mask: np.ndarray | None) -> np.ndarray:
    """[heads, queries, keys]."""
    logits = np.einsum("hqd,hkd->hqk", q.double().numpy(), k.double().numpy()) / np.sqrt(q.shape[-1])
    logits = logits if mask is None else logits + mask
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def watched(studio: Studio, p: Any, **settings: Any) -> tuple[Any, AttentionShares]:
    """A generation up to the sampler, whose attention is measured."""
    found = AttentionShares()
    p.__dict__[WATCHED] = Watched(found)
    return studio.condition(p, **settings), found


WAYS = {"steady": {"weight": 1.0}, "weighed": {"weight": 0.4}, "merged": {"merge": 2, "proportional": True}}


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("cfg", "size"), [(1.0, SIZE), (4.0, ODD_SIZE)], ids=["alone", "guided, filled up"])
def test_the_picture_stays_bit_for_bit_and_nothing_is_left(
    studio: Studio, settings: dict, cfg: float, size: tuple[int, int]
) -> None:
    without, function = studio.picture(cfg=cfg, size=size, **FRONT | settings), lumina.attention_function
    p, found = watched(studio, studio.p(cfg=cfg), **FRONT | settings)
    assert torch.equal(studio.sample(p, size=size), without)
    run.current(p).after_sampling()
    assert (found.blocks, found.references, sorted(found.steps)) == (BLOCKS, 1, list(range(STEPS)))
    assert found.whole
    assert hooks(studio.model) == 0
    assert lumina.attention_function is function
    assert torch.equal(studio.picture(cfg=cfg, size=size, **FRONT | settings), without)
    assert not any("no effect" in comment for comment in p.comments)


def as_long(studio: Studio, **settings: Any) -> str:
    """A negative prompt of as many rows as the prompt has with the reference: both go through the model together."""
    wanted = len(conds(studio.condition(studio.p(), **settings))[0])
    for count in range(1, 120):
        text = "x" * count
        if len(rows(studio.condition(studio.p(cfg=4.0, negative_prompt=text)).uc)[0]) == wanted:
            return text
    raise AssertionError("there is none")


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("how", ["alone", "guided, filled up", "guided, both halves in one call"])
def test_shares_are_the_softmax_of_each_blocks_own_queries_and_keys(
    studio: Studio, settings: dict, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, cfg, size = how.endswith("call"), 1.0 if how == "alone" else 4.0, SIZE if how == "alone" else ODD_SIZE
    negative = as_long(studio, **FRONT | settings) if together else "ugly"
    plain = len(conds(studio.condition(studio.p(cfg=cfg)))[0])
    p, found = watched(studio, studio.p(cfg=cfg, negative_prompt=negative), **FRONT | settings)
    count, block = len(conds(p)[0]), run.current(p).making.made.conditioning.parts[0].block
    seen, patches = Attended(studio, monkeypatch), size[0] * size[1] // 4
    studio.sample(p, size=size)
    assert (len(studio.calls[-1]["cond_or_uncond"]) == 2) == together
    for group, keys in ((1, slice(0, len(block))), (0, slice(count - plain, count))):
        wanted = seen.shares(count, patches, keys)
        got = np.array(found.of(group)).T.ravel()  # step by step, and within a step block by block
        assert len(got) == BLOCKS * STEPS
        assert got == pytest.approx(np.array(wanted), rel=1e-4, abs=1e-7)
        assert min(wanted) > 0.001


def test_of_a_batch_the_first_picture_is_measured(studio: Studio) -> None:
    alone, other = (watched(studio, studio.p(prompt), **FRONT, weight=0.4) for prompt in (CAT, DOG))
    both = watched(studio, studio.p([CAT, DOG], cfg=4.0), **FRONT, weight=0.4)
    guided = watched(studio, studio.p(CAT, cfg=4.0), **FRONT, weight=0.4)
    for p, _ in (alone, other, both, guided):
        studio.sample(p)
    assert both[1].of(1) == pytest.approx(np.array(guided[1].of(1)), rel=1e-4)
    assert not np.allclose(both[1].of(1), other[1].of(1), rtol=1e-3)


def test_each_of_two_references_has_a_share_of_its_own(studio: Studio, other_picture: Any) -> None:
    p, found = watched(studio, studio.p(), **FRONT, reference_2=other_picture, weight_2=0.5)
    studio.sample(p)
    one, other = (np.array(found.of(number)) for number in (1, 2))
    assert found.references == 2
    assert one.min() > 0
    assert other.min() > 0
    assert not np.allclose(one, other)


def test_some_of_the_pictures_rows_stand_for_all_of_them(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    p, found = watched(studio, studio.p(), **FRONT)
    studio.sample(p)
    monkeypatch.setattr(forge_shares, "MOST", 16)
    assert forge_shares.chosen(64).tolist() == [round(number * 63 / 15) for number in range(16)]
    p, few = watched(studio, studio.p(), **FRONT)
    studio.sample(p)
    assert few.of(1) != found.of(1)
    assert np.array(few.of(1)) == pytest.approx(np.array(found.of(1)), rel=0.3)


# --- Analyse


@pytest.fixture
def makes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The web UI makes pictures, and calls its scripts as it does; gives the generations."""
    made: list[Any] = []

    def process_images(p: Any) -> None:
        made.append(p)
        p.scripts.before_process(p)
        p.setup_prompts()
        p.scripts.process(p)
        studio.web.condition(p)
        p.scripts.process_batch(p, batch_number=0)
        p.latents = studio.sample(
            p, p.steps, (p.height // 8, p.width // 8), attached=False,
            prepare=lambda unet: p.scripts.process_before_every_sampling(p, x=None),
        )  # fmt: skip
        p.scripts.postprocess_batch(p, p.latents, batch_number=0)

    monkeypatch.setattr(processing, "process_images", process_images)
    if hosts.REAL:
        from modules import sd_models

        monkeypatch.setattr(sd_models, "forge_model_reload", lambda: (shared.sd_model, False))
    return made


def asked(**more: Any) -> Wanted:
    return Wanted(CAT, (128, 96), attention=True, steps=3, **more)


def settings(picture: Any, **more: Any) -> Settings:
    return Settings.from_mapping({"reference": picture, **UNWEIGHED, **FRONT, **more})


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_an_analysis_has_the_attention_of_a_picture_of_its_own(
    studio: Studio, makes: list, picture: Any, cfg: float
) -> None:
    KEEPER.last = last = object()
    found = analysed_here(settings(picture, weight=0.5), asked(cfg=cfg, seed=5))
    assert (found.shares.blocks, sorted(found.shares.steps)) == (BLOCKS, [0, 1, 2])
    (p,) = makes
    assert (p.width, p.height, p.steps, p.cfg_scale, p.seed, p.do_not_save_samples) == (128, 96, 3, cfg, 5, True)
    own, shares = watched(studio, studio.p(cfg=cfg, seed=5, negative_prompt="", steps=3, width=128, height=96),
                          **FRONT, weight=0.5)  # fmt: skip
    assert torch.equal(studio.sample(own, 3, (12, 16)), p.latents)
    assert found.shares.of(1) == shares.of(1)
    assert KEEPER.last is last
    assert found.note == ""
    assert analysed_here(settings(picture), Wanted(CAT, (128, 96))).shares is None


@pytest.mark.parametrize("ended_by", ["stop", "interrupted"])
def test_it_can_be_ended_while_the_picture_is_made(studio: Studio, makes: list, picture: Any, ended_by: str) -> None:
    steps = itertools.count()

    def on_step(what: str, done: int, of: int) -> None:
        if what.startswith("making a picture, step") and next(steps) == 1:
            if ended_by == "stop":
                raise Stopped
            shared.state.interrupted = True

    with pytest.raises(Stopped):
        analysed_here(settings(picture), asked(on_step=on_step))
    assert not shared.state.interrupted
    assert hooks(studio.model) == 0
    assert analysed_here(settings(picture), asked()).shares.whole


def test_the_api_gives_it_where_it_is_asked_for(studio: Studio, makes: list, picture: Any) -> None:
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from zvl_ext.webui import api

    app = fastapi.FastAPI()
    app.add_api_route("/sdapi/v1/script-info", list, methods=["GET"])
    api.register(None, app)
    file = io.BytesIO()
    picture.save(file, "PNG")
    given = {"image": base64.b64encode(file.getvalue()).decode(), "prompt": CAT, "options": {**UNWEIGHED, **FRONT}}
    more = {"attention": True, "width": 128, "height": 96, "steps": 2, "cfg": 2.0, "shift": 4.0, "seed": 7}
    answer = TestClient(app).post("/zvl/statistics", json={**given, **more})
    assert answer.status_code == 200, answer.text
    attention = answer.json()["attention"]
    assert {name: np.array(grid).shape for name, grid in attention.items()} == {
        "prompt": (BLOCKS, 2), "reference 1": (BLOCKS, 2),
    }  # fmt: skip
    (p,) = makes
    assert (p.width, p.height, p.steps, p.cfg_scale, p.distilled_cfg_scale, p.seed) == (128, 96, 2, 2.0, 4.0, 7)
    assert TestClient(app).post("/zvl/statistics", json=given).json()["attention"] is None
    assert len(makes) == 1


def test_where_it_can_not_be_measured_the_rest_is_there_and_a_line(
    studio: Studio, makes: list, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analysed_here(settings(picture, token_mode="text", length_match="interpolate"), asked())
    assert found.shares is None
    assert "no rows of their own" in found.note
    with monkeypatch.context() as patch:
        patch.setattr(forge_shares.Watch, "seen", lambda *args: None)  # as where a host's attention goes another way
        found = analysed_here(settings(picture), asked())
    assert found.shares is None
    assert found.note == (
        "The attention was not measured. The web UI's attention runs in a way that Z-Image VL can't watch."
    )

    def failing(p: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(processing, "process_images", failing)
    found = analysed_here(settings(picture), asked())
    assert found.kinds
    assert found.note.startswith("The attention was not measured. ")
    assert "\n" not in found.note
    assert len(found.note) < 300
