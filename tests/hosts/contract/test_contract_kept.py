"""What is kept of references and prompts, where, and that it can be forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from host_fixtures import WebUI
from host_runs import BARE, SPLICE, restarted, same
from modules import shared

from zvl_ext.store import Store
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures"]


def test_the_users_limit_on_memory_holds_from_the_next_picture_on(
    web: WebUI, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.run(web.p(), reference=picture, **BARE)
    KEEPER.store.put("large", {"x": torch.zeros(100 * 2**18)})  # 100 MiB
    web.run(web.p(), reference=picture, alpha=0.4, **BARE)
    assert KEEPER.store.get("large") is not None
    monkeypatch.setitem(shared.opts.data, "zvl_memory", 64)
    web.run(web.p(), reference=picture, alpha=0.5, **BARE)
    assert KEEPER.store.limit == 64 * 2**20
    assert KEEPER.store.get("large") is None
    assert 0 < KEEPER.store.size <= 64 * 2**20
    monkeypatch.setitem(shared.opts.data, "zvl_memory", 2048)
    web.run(web.p(), reference=picture, alpha=0.6, **BARE)
    assert KEEPER.store.limit == 2048 * 2**20


@pytest.mark.parametrize("settings", [{}, SPLICE], ids=["blend", "splice"])
def test_what_is_kept_on_disk_outlives_the_web_ui_and_gives_the_same_bits(
    web: WebUI, picture: Any, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.run(web.p(), reference=picture, **BARE, **settings)
    assert not (tmp_path / "kept").exists(), "off by default"
    restarted(web)
    monkeypatch.setitem(shared.opts.data, "zvl_disk", 256)
    first = web.run(web.p(), reference=picture, **BARE, **settings)
    assert len(list((tmp_path / "kept").iterdir())) == 2
    monkeypatch.setattr(KEEPER, "store", Store())
    restarted(web)
    again = web.run(web.p(), reference=picture, **BARE, **settings)
    assert set(web.events.kinds()) == {"text"}, "only the prompt, by the web UI itself"
    assert same(again.c, first.c)


@pytest.mark.parametrize("mode", ["all", "image"])
def test_what_only_this_process_could_find_again_takes_up_no_disk(
    web: WebUI, picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The text encoder's state is told by a number of this process's own."""
    monkeypatch.setitem(shared.opts.data, "zvl_disk", 256)
    web.run(web.p(), reference=picture, **{**SPLICE, **BARE, "token_mode": mode})
    # What the vision tower has made, and what a prompt is behind it: the prompt's embeddings tell of the weights.
    assert len(list((tmp_path / "kept").iterdir())) == {"all": 2, "image": 1}[mode]


@pytest.mark.parametrize("still_on", [True, False], ids=["disk on", "disk switched off since"])
def test_forgetting_leaves_nothing_of_references_and_prompts(
    web: WebUI, picture: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still_on: bool
) -> None:
    monkeypatch.setitem(shared.opts.data, "zvl_disk", 256)
    for settings in (SPLICE, {}):
        web.run(web.p(), reference=picture, **BARE, **settings)
    if not still_on:
        monkeypatch.setitem(shared.opts.data, "zvl_disk", 0)
        web.run(web.p(), reference=picture, alpha=0.9, **BARE)
    in_memory, on_disk = KEEPER.store.size, sum(file.stat().st_size for file in (tmp_path / "kept").iterdir())
    assert min(in_memory, on_disk) > 0
    assert KEEPER.forget() >= in_memory + on_disk
    assert (KEEPER.store.size, KEEPER.recent.size, len(KEEPER.recorded)) == (0, 0, 0)
    assert not list((tmp_path / "kept").iterdir())
    assert KEEPER.forget() == 0
    web.events.clear()
    web.run(web.p(), reference=picture, alpha=0.6, **BARE)
    assert [kind for kind in web.events.kinds() if kind not in ("load", "tower")] == [
        "text",
        "place",
        "vision",
        "vl",
        "vl",
    ]
    assert KEEPER.forget() > 0
