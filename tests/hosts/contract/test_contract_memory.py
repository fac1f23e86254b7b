"""Memory: the web UI knows of Qwen3-VL, can take it away, and gets it all back."""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before everything that imports it
import pytest
import torch
from backend import memory_management as mm
from host_fixtures import LAYERS, WebUI
from host_runs import CAT, DOG, SPLICE, same
from published import research

from zvl_ext.errors import ZvlError
from zvl_ext.hosts import forge_files
from zvl_ext.hosts.forge_extractor import ForgeExtractor
from zvl_ext.qwen3vl import language
from zvl_ext.qwen3vl.checkpoint import Checkpoint
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]


def loaded_models() -> list:
    return [
        entry.model
        for entry in mm.current_loaded_models
        if entry.model is not None and type(entry.model.model).__name__ == "Qwen3VLModel"
    ]


def test_the_web_ui_knows_of_the_model_and_can_take_it_away(web: WebUI, picture: Any) -> None:
    first = web.run(web.p(), reference=picture)
    assert len(loaded_models()) == 1
    mm.unload_all_models()
    assert not loaded_models()
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("load") == 1, "it only has to be placed again"
    assert len(loaded_models()) == 1
    assert same(web.run(web.p(), reference=picture).c, first.c)


@pytest.fixture
def placed(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which models were placed by the web UI, in order, each time another one's turn came."""
    turns: list[str] = []
    place = mm.load_models_gpu

    @functools.wraps(place)
    def watched(models: list, *args: Any, **kwargs: Any) -> Any:
        for patcher in models:
            name = type(patcher.model).__name__
            if turns[-1:] != [name]:
                turns.append(name)
        return place(models, *args, **kwargs)

    monkeypatch.setattr(mm, "load_models_gpu", watched)
    return turns


TEXT, WHOLE, TOWER = "ModuleDict", "Qwen3VLModel", "Qwen3VLVisionModel"
TURNS = {
    "blend": ({}, [TEXT, WHOLE], [TEXT, WHOLE]),
    "splice": (SPLICE, [TOWER, TEXT], [TEXT]),
    "splice, positions of Qwen3-VL": (
        SPLICE | {"positions": "mrope", "normalization": "global"},
        [TOWER, TEXT],
        [TEXT],
    ),
    "splice, image rows": (SPLICE | {"token_mode": "image"}, [TOWER, TEXT], [TEXT]),
    "splice, dropout": (SPLICE | {"image_dropout": 0.5}, [TOWER, TEXT], [TEXT]),
}


@pytest.mark.parametrize(("settings", "first", "another_prompt"), TURNS.values(), ids=TURNS)
def test_each_model_is_placed_once_for_a_picture(
    web: WebUI, placed: list[str], picture: Any, settings: dict, first: list[str], another_prompt: list[str]
) -> None:
    """The vision tower alone goes before the text encoder, which splice needs after it; the whole Qwen3-VL goes
    behind."""
    web.run(web.p([CAT, DOG]), reference=picture, **settings)
    assert placed == first
    placed.clear()
    web.run(web.p([CAT, "else"]), reference=picture, **settings)
    assert placed == another_prompt
    placed.clear()
    web.run(web.p([CAT, "else"]), reference=picture, **settings | {"alpha": 0.7})
    assert placed == []


def test_a_deeper_layer_is_loaded_beside_those_that_are_there_and_the_web_ui_learns_of_the_growth(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepen, placed = language.Qwen3VL.deepen, []
    monkeypatch.setattr(
        language.Qwen3VL, "deepen", lambda model, depth: placed.append(len(loaded_models())) or deepen(model, depth)
    )
    web.run(web.p(), reference=picture, hidden_layer=-8)
    (before,) = loaded_models()
    module, known = before.model, weakref.ref(before)
    assert len(module.language_model.layers) == LAYERS - 7
    del before
    web.run(web.p(), reference=picture, hidden_layer=-2)
    gc.collect()
    (after,) = loaded_models()
    assert placed == [0, 0], "while it grows the web UI has it not"
    assert after is KEEPER.residence.patcher
    assert known() is None, "it had been told another size"
    assert after.model is module
    assert len(module.language_model.layers) == LAYERS - 1
    web.run(web.p(DOG), reference=picture, hidden_layer=-8)
    assert loaded_models() == [after]
    assert (web.events.count("load"), web.events.of("deepen")) == (1, [LAYERS - 1])


def test_a_deeper_layer_that_can_not_be_read_leaves_the_others_of_use(
    web: WebUI, picture: Any, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Checkpoint.read_stored

    def damaged(self: Checkpoint, names: Iterable[str]) -> Iterator:
        for item in read(self, names):
            if f"layers.{LAYERS - 1}." in item[0]:
                raise ZvlError(f"{item[0]} can't be read.")
            yield item

    first = web.run(web.p(), reference=picture)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "read_stored", damaged)
        for _ in range(2):
            with refused(r"language_model\.layers\.11\.\S+ can't be read"):
                web.run(web.p(), hidden_layer=-1, reference=picture)
        web.run(web.p(DOG), reference=picture)
    KEEPER.store.clear()
    assert same(web.run(web.p(), reference=picture).c, first.c)


def test_dropping_it_gives_the_memory_back(web: WebUI, picture: Any) -> None:
    web.run(web.p(), reference=picture)
    module = weakref.ref(loaded_models()[0].model)
    KEEPER.residence.drop()
    gc.collect()
    assert not loaded_models()
    assert module() is None


def test_one_qwen3_vl_is_held_at_a_time(web: WebUI, picture: Any, vl_folder: Path) -> None:
    (web.weights / "second").symlink_to(vl_folder)
    web.run(web.p(), reference=picture, model="tiny-vl")
    module = weakref.ref(loaded_models()[0].model)
    web.run(web.p(), reference=picture, model="second")
    gc.collect()
    assert len(loaded_models()) == 1
    assert module() is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            mm.OOM_EXCEPTION("CUDA out of memory"),
            "Not enough memory for Qwen3-VL on cpu. Choose the device cpu, or a smaller reference size.",
        ),
        (MemoryError(), "Not enough memory for Qwen3-VL"),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
            "Not enough main memory for Qwen3-VL",
        ),
    ],
    ids=["card", "python", "torch"],
)
def test_out_of_memory_is_one_line_and_the_model_is_dropped(
    web: WebUI, picture: Any, refused: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    web.run(web.p(), reference=picture)
    module = weakref.ref(loaded_models()[0].model)
    place = mm.load_models_gpu

    def full(models: list, *args: Any, **kwargs: Any) -> Any:
        if any(type(patcher.model).__name__ == "Qwen3VLModel" for patcher in models):
            raise error
        return place(models, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(mm, "load_models_gpu", full)
        with refused(says):
            web.run(web.p(DOG), reference=picture)
    error.__traceback__ = None  # it holds the frames, and they the model
    gc.collect()
    assert not loaded_models()
    assert module() is None
    web.run(web.p(DOG), reference=picture)
    assert web.events.count("load") == 2


def test_a_card_that_is_too_small_means_the_cpu_and_a_note(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = web.run(web.p(), reference=picture)
    monkeypatch.setattr(mm, "text_encoder_device", lambda: torch.device("meta"))  # stands for a graphics card
    monkeypatch.setattr(mm, "get_total_memory", lambda *a: 2**20)
    extractor = ForgeExtractor(forge_files.checkpoint(""), research(), KEEPER.residence)
    assert extractor.device == torch.device("cpu")
    assert "it runs on the CPU, which is slower" in extractor.note
    assert ForgeExtractor(forge_files.checkpoint(""), research(device="cpu"), KEEPER.residence).note == ""
    monkeypatch.undo()
    assert on_cpu.comments == {}
