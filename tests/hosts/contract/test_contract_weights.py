"""Where the web UI's users have Qwen3-VL, and what is said of what they have instead."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import headers
import pytest
import tiny
from host_fixtures import WebUI
from host_runs import same
from modules import shared

from zvl_ext.hosts import forge_files

pytest_plugins = ["host_fixtures"]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the web UI's start flags."""

    def give(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(shared.cmd_opts, name, value, raising=False)

    give(qwen3_vl_dirs=None, text_encoder_dirs=[], text_encoder_dir=None)
    return give


@pytest.fixture
def single(vl_model: Any, tmp_path: Path) -> Path:
    """Qwen3-VL as one file, among other models' text encoders."""
    folder = tmp_path / "shared"
    headers.safetensors(folder / "clip_l.safetensors", headers.OTHERS["CLIP text encoder"])
    headers.safetensors(folder / "qwen_3_4b.safetensors", headers.OTHERS["Qwen3-4B, text only"])
    return tiny.save_single(
        tiny.inner_state(vl_model), folder / "vl.safetensors", metadata=tiny.config_metadata(vl_model.config)
    )


@pytest.fixture
def empty(web: WebUI, flags: Any) -> WebUI:
    """A web UI whose own folder for Qwen3-VL is empty."""
    (web.weights / "tiny-vl").unlink()
    return web


def listed() -> list[str]:
    return list(forge_files.models())


def test_the_web_uis_own_text_encoders_are_looked_through(empty: WebUI, single: Path, picture: Any) -> None:
    (empty.weights.parent / "text_encoder").symlink_to(single.parent)
    assert listed() == ["vl.safetensors"]
    p = empty.run(empty.p(), reference=picture)
    assert p.extra_generation_params["ZVL model"] == "vl.safetensors"


@pytest.mark.parametrize("flag", ["text_encoder_dirs", "text_encoder_dir", "qwen3_vl_dirs"])
def test_folders_that_flags_name_are_looked_through(
    flag: str, empty: WebUI, single: Path, flags: Any, vl_folder: Path
) -> None:
    flags(**{flag: str(single.parent) if flag == "text_encoder_dir" else [str(single.parent)]})
    assert listed() == ["vl.safetensors"]
    (empty.weights / "mine").symlink_to(vl_folder)
    assert listed() == ["mine", "vl.safetensors"], "the own folder comes first"


def test_a_models_own_folder_or_file_can_be_named(empty: WebUI, single: Path, vl_folder: Path, flags: Any) -> None:
    flags(qwen3_vl_dirs=[str(vl_folder), str(single)])
    assert listed() == ["tiny-vl", "vl.safetensors"]


def test_modules_that_the_web_ui_lists_itself_are_looked_at(
    empty: WebUI, single: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = SimpleNamespace(module_list={path.name: str(path) for path in sorted(single.parent.iterdir())})
    package = ModuleType("modules_forge")
    package.main_entry = entry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules_forge", package)
    monkeypatch.setitem(sys.modules, "modules_forge.main_entry", entry)
    assert listed() == ["vl.safetensors"]


def test_what_is_listed_elsewhere_as_well_is_listed_once(web: WebUI, single: Path, flags: Any, tmp_path: Path) -> None:
    (web.weights / "here.safetensors").symlink_to(single)
    flags(text_encoder_dirs=[str(single.parent)], qwen3_vl_dirs=[str(web.weights), str(tmp_path / "models")])
    assert listed() == ["here.safetensors", "tiny-vl"]


@pytest.mark.parametrize(
    ("what", "says"),
    [("Qwen2.5-VL-7B", "it is a Qwen2.5-VL-7B"), ("Qwen3-4B, text only", "it is a Qwen3-4B, text only")],
)
def test_a_file_of_another_model_that_is_named_says_what_it_is(
    what: str, says: str, web: WebUI, picture: Any, refused: Any
) -> None:
    headers.safetensors(web.weights / "a.safetensors", headers.OTHERS[what])
    assert listed() == ["tiny-vl"]
    with refused(rf"^a\.safetensors is not a Qwen3-VL-4B: {says}"):
        web.run(web.p(), reference=picture, model="a.safetensors")


def test_a_name_is_never_a_path(web: WebUI, picture: Any, refused: Any, single: Path) -> None:
    for name in (str(single), f"../../shared/{single.name}", "tiny-vl/../tiny-vl", "/dev/zero", "x" * 400, "a\nb"):
        with refused("There is no Qwen3-VL model .*; there is tiny-vl."):
            web.run(web.p(), reference=picture, model=name)


def test_many_names_are_told_in_short(web: WebUI, picture: Any, refused: Any, vl_folder: Path) -> None:
    for number in range(20):
        (web.weights / f"{number:02}").symlink_to(vl_folder)
    with refused("there is 00, 01, 02, 03, 04 and 16 more"):
        web.run(web.p(), reference=picture, model="nothing")


def test_nothing_is_searched_again_while_the_folders_stay_as_they_are(
    web: WebUI, vl_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge_files.models()
    searched = []
    real = forge_files.look
    monkeypatch.setattr(forge_files, "look", lambda places: searched.append(places) or real(places))
    for _ in range(3):
        assert forge_files.checkpoint("").name == forge_files.checkpoint("tiny-vl").name == "tiny-vl"
    assert searched == []
    (web.weights / "a").symlink_to(vl_folder)
    assert forge_files.checkpoint("").name == "a"
    assert len(searched) == 1
    (web.weights / "a").unlink()
    assert forge_files.checkpoint("").name == "tiny-vl"


def test_a_changed_configuration_is_another_model_without_a_restart(
    empty: WebUI, vl_folder: Path, picture: Any
) -> None:
    folder = Path(shutil.copytree(vl_folder, empty.weights / "copy"))
    first = empty.run(empty.p(), reference=picture)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("5000000.0", "4000000.0"))
    assert text != (folder / "config.json").read_text()
    second = empty.run(empty.p(), reference=picture)
    assert empty.events.count("load") == 2
    assert not same(first.c, second.c)
    (folder / "config.json").write_text(text)
    assert same(empty.run(empty.p(), reference=picture).c, first.c)
