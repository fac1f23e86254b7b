"""Older web UIs: what they lack, one thing at a time and all at once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import hosts
import pytest
import torch
from backend import memory_management as mm
from by_hand import ByHand
from host_fixtures import LAYERS, WebUI
from host_runs import BARE, CAT, SPLICE, close, conds, put_on_a_lora, restarted, same
from older_host import FEATURES

from zvl_ext.hosts.forge_memory import Residence
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]
pytestmark = pytest.mark.skipif(bool(hosts.REAL), reason="changes the stand-in; an older web UI shows it itself")

CPU = torch.device("cpu")


@pytest.fixture(params=[*FEATURES, "all"])
def older(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An older web UI. Asked for in front of `web`, which begins with what it finds."""
    monkeypatch.setattr(mm, "current_loaded_models", [])
    for name, change in FEATURES.items():
        if request.param in (name, "all"):
            change(monkeypatch)
    return str(request.param)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "current_loaded_models", [])
    for change in FEATURES.values():
        change(monkeypatch)


def loaded() -> list[torch.nn.Module]:
    entries = [entry.model for entry in mm.current_loaded_models if entry.model is not None]
    return [patcher.model for patcher in entries if type(patcher.model).__name__ == "Qwen3VLModel"]


def test_a_deeper_layer_after_a_shallower_one(older: str, web: WebUI, picture: Any, by_hand: ByHand) -> None:
    web.run(web.p(), reference=picture, hidden_layer=-8)
    module = weakref.ref(loaded()[0])
    got = conds(web.run(web.p(), reference=picture, hidden_layer=-2))[0]
    assert close(got, by_hand.blended(web.engine, CAT, layer=-2))
    assert loaded() == [module()]
    assert web.events.of("deepen") == [LAYERS - 1]


def test_qwen3_vl_is_released(older: str, web: WebUI, picture: Any) -> None:
    web.run(web.p(), reference=picture)
    module = weakref.ref(loaded()[0])
    KEEPER.residence.drop()
    gc.collect()
    assert loaded() == []
    assert module() is None


def test_positions_of_qwen3_vl(older: str, web: WebUI, picture: Any, by_hand: ByHand) -> None:
    got = conds(web.run(web.p(), reference=picture, **SPLICE | BARE | {"positions": "mrope"}))[0]
    assert close(got[1:], by_hand.spliced(web.engine, CAT, mrope=True)[1:])


def test_prompts_are_encoded_once_for_a_sweep_and_again_with_a_lora(older: str, web: WebUI, picture: Any) -> None:
    for alpha in (0.2, 0.3, 0.4):
        web.run(web.p(), reference=picture, alpha=alpha, **BARE)
    assert web.events.count("text") == 1
    put_on_a_lora(web)
    for alpha in (0.5, 0.6):
        changed = web.run(web.p(), reference=picture, alpha=alpha, **BARE).c
    assert web.events.count("text") == 2
    assert same(restarted(web).run(web.p(), reference=picture, alpha=0.6, **BARE).c, changed)


def test_the_same_file_with_other_weights_is_another_lora(old: None, web: WebUI, picture: Any) -> None:
    patches = web.engine.forge_objects.clip.patcher.lora_patches
    for times, weights in enumerate(([1], [2])):
        patches["some.safetensors", 1.0, 1.0, False] = {"layers.0": weights}
        for alpha in (0.2, 0.3):
            web.p().cached_c[:] = [None, None, None]  # the web UI's own key tells one LoRA from another
            web.run(web.p(), reference=picture, alpha=alpha, **BARE)
        assert web.events.count("text") == times + 1


def test_a_model_is_placed_whole_where_it_can_not_be_asked_for(old: None) -> None:
    residence, module = Residence(), torch.nn.Linear(2, 2)
    module.register_buffer("table", torch.ones(2))
    residence.hold(("key",), module, module, torch.device("meta"))
    assert residence.place(1) is module
    assert {part.device.type for part in module.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), MemoryError(), AttributeError("no such thing")])
def test_whatever_fails_while_it_is_taken_off_nothing_stays_behind(
    older: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A web UI that holds what is in its list would hold it for good."""
    residence, module = Residence(), torch.nn.Linear(2, 2)
    residence.hold(("key",), module, module, CPU)
    residence.place(1)
    known = weakref.ref(module)
    del module

    def fails(self: Any, *args: Any) -> None:
        raise error

    monkeypatch.setattr(mm.LoadedModel, "model_unload", fails)
    if isinstance(error, AttributeError):  # not known, so it is told
        with pytest.raises(AttributeError):
            residence.drop()
    else:
        residence.drop()
    error.__traceback__ = None
    gc.collect()
    assert residence.model is residence.patcher is residence.key is None
    assert known() is None


def test_a_web_ui_without_a_list_of_what_is_loaded_is_refused(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could never give the memory back."""
    monkeypatch.delattr(mm, "current_loaded_models")
    with refused("manages its memory in a way Z-Image VL does not know"):
        Residence().hold(("key",), None, torch.nn.Linear(2, 2), CPU)
