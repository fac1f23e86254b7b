"""A reference analysed in the web UI: by the models that it holds, while no picture is made, and pictures stay as they
are."""

from __future__ import annotations

import base64
import contextlib
import io
import json
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from host_fixtures import WebUI
from host_runs import CAT, same
from modules import shared

from zvl_ext.analysis.wanted import Wanted
from zvl_ext.errors import Stopped
from zvl_ext.hosts import forge, forge_encoder
from zvl_ext.mixing.prompts import REFERENCE_PROMPTS
from zvl_ext.options import Settings
from zvl_ext.reference import open_reference
from zvl_ext.webui.analyse import analysed_here
from zvl_ext.webui.engine import statistics_of
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]


@pytest.fixture(autouse=True)
def _loaded(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real web UI loads the checkpoint that is chosen; here it has one that no file knows."""
    with contextlib.suppress(ImportError):  # not the stand-in
        from modules import sd_models

        monkeypatch.setattr(sd_models, "forge_model_reload", lambda: (forge.current_engine(), False))


def settings(picture: Any, **more: Any) -> Settings:
    return Settings.from_mapping({"reference": open_reference(picture), **more})


@pytest.mark.parametrize("engine", ["blend", "splice"])
def test_both_engines_are_analysed_with_the_text_encoder_of_the_web_ui(web: WebUI, picture: Any, engine: str) -> None:
    found = analysed_here(settings(picture, engine=engine, hidden_layer=-2), Wanted("a cat", (64, 64)))
    assert [kind.name for kind in found.kinds] == ["text rows", "image rows", "all rows", "vision tower, raw"]
    assert found.prompts == len(REFERENCE_PROMPTS)
    reference = statistics_of(forge.current_engine(), forge.prompts_of([CAT], (64, 64)))
    assert torch.allclose(found.reference.whole.per_dim_std, reference.per_dim_std, rtol=1e-4)
    assert found.reference.whole.global_std == pytest.approx(reference.global_std, rel=1e-4)
    assert found.reference.whole.tokens == reference.tokens


def test_the_text_encoder_is_measured_once_and_with_another_lora_anew(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured() -> int:
        said: list[str] = []
        KEEPER.store.clear()  # which knows text encoders by what they give
        analysed_here(settings(picture), Wanted("a cat", on_step=lambda what, *more: said.append(what)))
        return sum("measuring the text encoder" in what for what in said)

    assert [measured(), measured()] == [len(REFERENCE_PROMPTS), 0]
    before = forge_encoder.text_state(forge.current_engine())
    monkeypatch.setattr(forge_encoder, "text_state", lambda engine: "another")
    assert [measured(), measured()] == [len(REFERENCE_PROMPTS), 0]
    monkeypatch.setattr(forge_encoder, "text_state", lambda engine: before)
    assert measured() == 0, "taken out again"


def test_pictures_before_and_after_are_the_same(web: WebUI, picture: Any) -> None:
    before, plain = web.run(web.p(), reference=picture), web.plain()
    analysed_here(settings(picture), Wanted("a dog, seen from behind", (320, 256)))
    assert web.plain().c is plain.c or same(web.plain().c, plain.c)
    KEEPER.store.clear()
    assert same(web.run(web.p(), reference=picture).c, before.c)


@pytest.mark.parametrize("ended_by", ["stop", "interrupted", "skipped"])
def test_it_can_be_ended_and_nothing_of_it_is_left(web: WebUI, picture: Any, ended_by: str) -> None:
    steps: list[str] = []

    def on_step(what: str, done: int, of: int) -> None:
        steps.append(what)
        if len(steps) == 3:
            if ended_by == "stop":
                raise Stopped
            setattr(shared.state, ended_by, True)

    with pytest.raises(Stopped):
        analysed_here(settings(picture), Wanted("a cat", on_step=on_step))
    assert len(steps) == 3
    assert not shared.state.interrupted
    assert not shared.state.skipped
    assert analysed_here(settings(picture), Wanted("a cat")).kinds


def test_what_can_not_be_analysed_is_one_line(web: WebUI, picture: Any, refused: Any) -> None:
    with refused("no reference 2 to analyse"):
        analysed_here(settings(picture), Wanted(), 2)
    with refused("no Qwen3-VL model 'other'"):
        analysed_here(settings(picture, model="other"), Wanted())
    with refused("does not exist"):
        analysed_here(settings(picture, engine="blend", hidden_layer=-36), Wanted())


def test_another_engine_of_the_same_weights_reads_one_prompt(web: WebUI, picture: Any) -> None:
    """What it gives names the text encoder; a disk keeps it over a restart."""
    engine, prompts = forge.current_engine(), forge.prompts_of([CAT], (64, 64))
    web.events.clear()
    KEEPER.store.clear()
    first = statistics_of(engine, prompts)
    assert web.events.count("text") == len(REFERENCE_PROMPTS)
    again = statistics_of(engine, prompts)
    assert web.events.count("text") == len(REFERENCE_PROMPTS) + 1
    assert torch.equal(again.per_dim_std, first.per_dim_std)
    assert torch.equal(again.per_dim_mean, first.per_dim_mean)
    assert (again.global_std, again.tokens) == (first.global_std, first.tokens)
    weights = next(forge_encoder.language_model(engine).parameters())
    before = weights.detach().clone()
    with torch.no_grad():
        weights.mul_(1.5)
        try:
            assert statistics_of(engine, prompts).global_std != first.global_std
        finally:
            weights.copy_(before)
    assert web.events.count("text") == 2 * len(REFERENCE_PROMPTS) + 1


def test_layers_are_kept_with_what_is_kept_of_references(web: WebUI, picture: Any) -> None:
    def analysed() -> tuple[Any, int]:
        said: list[str] = []
        found = analysed_here(settings(picture), Wanted("a cat", on_step=lambda what, *more: said.append(what)))
        return found, sum("measuring" in what for what in said)

    KEEPER.store.clear()
    first, measured = analysed()
    assert measured == len(REFERENCE_PROMPTS)
    KEEPER._measured.clear()  # as after a restart
    again, measured = analysed()
    assert measured == 0
    assert [each.encoder.sink for each in again.layers] == [each.encoder.sink for each in first.layers]
    assert torch.equal(again.reference.ordinary.per_dim_std, first.reference.ordinary.per_dim_std)
    KEEPER._measured.clear()
    KEEPER.forget()
    assert analysed()[1] == len(REFERENCE_PROMPTS)


# --- over the API


@pytest.fixture
def client(web: WebUI) -> Any:
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    from zvl_ext.webui import api

    app = fastapi.FastAPI()
    app.add_api_route("/sdapi/v1/script-info", list, methods=["GET"])
    api.register(None, app)
    return TestClient(app)


def sent(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_the_api_gives_the_numbers(client: Any, picture: Any) -> None:
    given = {
        "image": sent(picture),
        "prompt": "a cat",
        "options": {"engine": "blend", "hidden_layer": -2, "alpha": 0.3},
    }
    answer = client.post("/zvl/statistics", json=given)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["alpha"], told["about"]["prompt"], told["about"]["engine"]) == (0.3, "a cat", "blend")
    assert [each["name"] for each in told["rows"]][1:] == ["text rows", "image rows", "all rows", "vision tower, raw"]
    assert json.loads(json.dumps(told, allow_nan=False)) == told


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "A JSON object"),
        ({}, "image is missing"),
        ({"image": "/etc/passwd"}, "not a path"),
        ({"image": "PICTURE", "length": "short"}, "'length' is not known"),
        ({"image": "PICTURE", "prompt": 3}, "prompt has to be text"),
        ({"image": "PICTURE", "options": []}, "options has to be an object"),
        ({"image": "PICTURE", "options": {"nothing": 1}}, "'nothing'"),
        ({"image": "PICTURE", "options": {"reference_2": "x"}}, "'reference_2'"),
        ({"image": "PICTURE", "options": {"profile": "x"}}, "'profile'"),
        ({"image": "PICTURE", "options": {"alpha": 7}}, "alpha"),
        ({"image": "PICTURE", "options": {"alpha": {}}}, "alpha"),
        ({"image": "PICTURE", "model": "../../etc"}, "no Qwen3-VL model"),
        ({"image": "PICTURE", "attention": "yes"}, "attention has to be true or false"),
        ({"image": "PICTURE", "attention": True, "steps": 0}, "steps must be"),
        ({"image": "PICTURE", "attention": True, "width": 1e9}, "width must be"),
        ({"image": "PICTURE", "attention": True, "cfg": "7"}, "cfg must be"),
        ({"image": "PICTURE", "seed": None}, "seed must be"),
    ],
    ids=str,
)  # fmt: skip
def test_the_api_refuses_in_one_line(client: Any, picture: Any, given: Any, says: str) -> None:
    if isinstance(given, dict) and given.get("image") == "PICTURE":
        given = given | {"image": sent(picture)}
    answer = client.post("/zvl/statistics", json=given)
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert detail.startswith("Z-Image VL: ")
    assert says in detail
    assert "\n" not in detail
    assert len(detail) <= 300
