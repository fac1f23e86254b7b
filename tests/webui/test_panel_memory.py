"""The panel's line about memory: what Qwen3-VL takes, where it is read, and whether it fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import torch
from backend import memory_management as mm
from host_fixtures import WebUI
from panel_fixtures import Built
from published import research

from zvl_ext.budget import weight_bytes
from zvl_ext.hosts import forge_files, forge_memory
from zvl_ext.options import Settings
from zvl_ext.webui.host import WebUI as PanelHost
from zvl_ext.webui.kept import KEEPER

pytest_plugins = ["host_fixtures", "panel_fixtures"]

GIB = 2**30
MORE = {"reference_tokens": 1024}  # 0.75 GiB to work in; the tiny weights are nothing beside it


@pytest.fixture
def machine(web: WebUI, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(card, free)`: the computer has so many GiB; a card of 0 is none."""

    def make(card: float, free: float) -> None:
        # "meta" stands for a graphics card
        monkeypatch.setattr(mm, "text_encoder_device", lambda: torch.device("meta" if card else "cpu"))
        monkeypatch.setattr(
            mm, "get_total_memory", lambda device=None, *a: int((card if device.type == "meta" else 64) * GIB)
        )
        monkeypatch.setattr(
            mm, "get_free_memory", lambda device=None, *a: int((free if device.type == "cpu" else card / 2) * GIB)
        )

    make(8, 16)
    return make


def memory_line(chosen: Settings | None = None, **values: Any) -> str:
    """What a panel with these values says about memory; the others are the published ones, or those that are chosen."""
    chosen = chosen or research()
    built = Built()
    (event,) = [e for e in built.events(built.controls["device"], "change") if built.memory in e.outputs]
    names = [next(n for n, control in built.controls.items() if control is component) for component in event.inputs]
    return event.fn(*[values.get(name, getattr(chosen, name)) for name in names])


def test_the_memory_is_said_before_the_run(machine: Any) -> None:
    line = Built().memory.value
    assert line == memory_line(Settings())
    assert "The vision tower takes about 0.5 GiB while it reads the reference; the graphics card has 8.0 GiB." in line
    line = memory_line()
    assert "Qwen3-VL takes about 0.4 GiB while it reads the reference; the graphics card has 8.0 GiB." in line
    assert "Qwen3-VL takes about 0.8 GiB" in memory_line(**MORE)
    assert "The vision tower takes about 0.8 GiB" in memory_line(engine="splice", **MORE)


def test_references_that_are_read_together_take_more(machine: Any) -> None:
    three = dict.fromkeys(("reference", "reference_2", "reference_4"), object())
    assert "takes about 0.8 GiB while it reads the reference;" in memory_line(**MORE, **three)
    line = memory_line(**MORE, **three, combine="in turn")
    assert "takes about 1.8 GiB while it reads the references;" in line


@pytest.mark.parametrize(
    "name", ["model", "engine", "hidden_layer", "reference_tokens", "storage", "device", "combine", "reference_3"]
)
def test_it_is_said_again_when_a_control_changes_that_decides_it(built: Built, name: str) -> None:
    shown = built.memory
    assert len([e for e in built.events(built.controls[name], "change") if e.outputs == [shown]]) == 1


def test_it_is_said_again_after_refreshing(built: Built) -> None:
    (click,) = built.events(built.button("refresh"), "click")
    (then,) = [e for e in built.page.fns.values() if e.trigger_after == click._id]
    assert then.outputs == [built.memory]


@pytest.mark.parametrize(
    ("card", "free", "values", "says"),
    [
        (
            0.5,
            16,
            MORE,
            "takes about 0.8 GiB and does not fit the graphics card (0.5 GiB): it runs on the CPU, which is slower. "
            "Choose a reference of 256 tokens.</p>",
        ),
        (
            0.5,
            0.6,
            MORE,
            "takes about 0.8 GiB and fits neither the graphics card (0.5 GiB) nor the main memory that is free "
            "(0.6 GiB). Choose a reference of 256 tokens. Close other programs.</p>",
        ),
        (0.2, 16, MORE, "it runs on the CPU, which is slower.</p>"),  # and nothing to choose would change that
        (
            8,
            16,
            {"device": "cpu"},
            "takes about 0.4 GiB while it reads the reference; 16.0 GiB of main memory are free.</p>",
        ),
        (0, 16, {}, "takes about 0.4 GiB while it reads the reference; 16.0 GiB of main memory are free.</p>"),
        (
            0,
            0.5,
            MORE,
            "takes about 0.8 GiB and does not fit the main memory that is free (0.5 GiB). "
            "Choose a reference of 256 tokens. Close other programs.</p>",
        ),
        (8, 0.1, {"device": "cpu"}, "does not fit the main memory that is free (0.1 GiB). Close other programs.</p>"),
    ],
)
def test_where_it_is_read_and_whether_it_fits(machine: Any, card: float, free: float, values: dict, says: str) -> None:
    machine(card, free)
    assert says in memory_line(**values)


def test_only_what_would_make_it_fit_is_recommended(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_of = {"blend auto": 3 * GIB, "blend fp8": 2 * GIB, "splice auto": GIB}
    monkeypatch.setattr(
        forge_memory, "weight_bytes", lambda opened, settings, size: bytes_of[f"{settings.engine} {settings.storage}"]
    )
    machine(2.9, 16)
    assert "Choose engine splice or weights in memory fp8.</p>" in memory_line()
    machine(1.9, 16)
    assert "Choose engine splice.</p>" in memory_line()
    machine(1.9, 0.1)
    assert "Choose engine splice. Close other programs.</p>" in memory_line()


def test_a_web_ui_that_uses_no_video_memory_reads_in_main_memory(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm, "vram_state", mm.VRAMState.NO_VRAM)
    assert "16.0 GiB of main memory are free" in memory_line()


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 2)])
def test_the_weights_are_counted_in_the_dtype_that_is_computed_in(
    machine: Any, monkeypatch: pytest.MonkeyPatch, dtype: str, itemsize: int
) -> None:
    monkeypatch.setattr(mm, "text_encoder_dtype", lambda *a: getattr(torch, dtype))
    settings = research(reference_tokens=4)
    expected = weight_bytes(forge_files.checkpoint(""), settings, itemsize) + GIB // 4 + 2 * 2**20
    assert PanelHost().memory(settings).needed == expected


def test_what_is_held_already_counts_as_free(machine: Any, web: WebUI, picture: Any) -> None:
    machine(0, 16)
    before = PanelHost().memory(research()).free
    assert before == 16 * GIB
    web.run(web.p(), reference=picture)
    held = sum(p.nbytes for p in KEEPER.residence.patcher.model.parameters())
    assert held > 10**5
    assert 0 <= PanelHost().memory(research()).free - before - held < held / 10, "buffers are held, too"
    KEEPER.residence.drop()
    assert PanelHost().memory(research()).free == before


def test_without_weights_and_while_a_number_is_being_typed_nothing_is_said(machine: Any, web: WebUI) -> None:
    for values in (
        {"hidden_layer": None},
        {"hidden_layer": -80},
        {"reference_tokens": 2.5},
        {"device": "gpu"},
        {"model": "gone"},
    ):
        assert memory_line(**values) == ""
    (web.weights / "tiny-vl").unlink()
    assert memory_line() == Built().memory.value == ""


def test_what_cant_be_told_is_left_out_and_breaks_nothing(
    machine: Any, web: WebUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    (web.weights / "broken.safetensors").write_bytes(b"nothing")
    assert memory_line(model="broken.safetensors") == ""
    assert memory_line(model="tiny-vl")
    monkeypatch.delattr(mm, "get_free_memory")
    assert memory_line(model="tiny-vl") == ""


def test_the_headers_are_read_once_for_each_state_of_the_files(
    machine: Any, web: WebUI, vl_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = forge_files.open_checkpoint
    monkeypatch.setattr(
        forge_files, "open_checkpoint", lambda path, name, **more: opened.append(name) or real(path, name, **more)
    )
    for layer in range(-1, -9, -1):
        assert memory_line(hidden_layer=layer)
    assert opened == ["tiny-vl"]
    copy = web.weights / "copy"
    copy.mkdir()
    for file in vl_folder.iterdir():
        (copy / file.name).symlink_to(file) if file.suffix == ".safetensors" else (copy / file.name).write_bytes(
            file.read_bytes()
        )
    for _ in range(2):
        memory_line(model="copy")
    assert opened == ["tiny-vl", "copy"]
    os.utime(copy / "config.json", ns=(1, 1))
    for _ in range(2):
        memory_line(model="copy")
    assert opened == ["tiny-vl", "copy", "copy"]
    (copy / "config.json").write_text("{}")
    assert memory_line(model="copy") == "", "not what it was"
