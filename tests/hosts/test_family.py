"""Web UIs that can't run Z-Image VL are told why, from the set-up on."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zvl_ext.hosts.family import UNKNOWN, without_qwen3vl, without_zimage

A1111 = ("launch.py", "webui.py", "modules/sd_models.py", "modules/scripts.py")
FORGE = (*A1111, "modules_forge/main_entry.py")
ZIMAGE = "backend/diffusion_engine/zimage.py"
# The files of each, as their public repositories have them, that tell it from the others.
WEB_UIS = {
    "SD.Next": (*A1111, "installer.py", "pipelines/model_z_image.py", "modules/sd_hijack_te.py"),
    "AUTOMATIC1111": A1111,
    "reForge": (*FORGE, "ldm_patched/modules/model_management.py"),
    "lllyasviel": (*FORGE, "backend/diffusion_engine/flux.py"),
    "before Z-Image": (*FORGE, "modules_forge/presets.py", "backend/diffusion_engine/lumina.py"),
}
NEO = (*FORGE, "modules_forge/presets.py", "backend/diffusion_engine/flux.py", ZIMAGE)


def made(folder: Path, files: tuple[str, ...]) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


def set_up(root: Path, host: Path, *before: str) -> str:
    """What the set-up says, run as the web UI does: in its own folder, which is on the path."""
    code = f"import runpy, sys; sys.path.insert(0, {str(root)!r}); sys.argv = ['install.py']; " + "".join(before)
    code += f"\ntry:\n    runpy.run_path({str(root / 'install.py')!r}, run_name='__main__')\nexcept SystemExit as e:\n"
    code += "    assert not e.code\nassert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(host)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=host, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


OLD = "import importlib.metadata as m; m.version = lambda name: '4.56.2'"


@pytest.mark.parametrize("name", WEB_UIS)
def test_the_set_up_says_what_is_true_there(root: Path, tmp_path: Path, name: str) -> None:
    said = set_up(root, made(tmp_path, WEB_UIS[name]), OLD)
    assert said.startswith("Z-Image VL: ")
    assert len(said.splitlines()) == 1
    assert len(said) < 300
    assert name in said
    assert "Forge Neo" in said
    assert "4.56" not in said, "another transformers would not help there"
    assert ("can't load Z-Image" in said) == (name in ("AUTOMATIC1111", "reForge"))
    assert ("diffusers" in said) == (name == "SD.Next")


def test_where_it_can_run_the_set_up_is_silent(root: Path, tmp_path: Path) -> None:
    assert set_up(root, made(tmp_path, NEO)) == ""


@pytest.mark.parametrize("files", [NEO, ()], ids=["Forge Neo", "no web UI"])
def test_an_old_transformers_is_named(root: Path, tmp_path: Path, files: tuple[str, ...]) -> None:
    said = set_up(root, made(tmp_path, files), OLD)
    assert said == (
        "Z-Image VL: transformers 4.56.2 does not know Qwen3-VL; it needs 4.57 or newer. Update the web UI.\n"
    )


@pytest.mark.parametrize(
    ("version", "known"),
    [("4.57", True), ("4.57.0", True), ("4.100.1", True), ("5.0.0rc1", True), ("4.56.2", False), ("4.9", False)],
)
def test_which_transformers_knows_qwen3_vl(monkeypatch: pytest.MonkeyPatch, version: str, known: bool) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert (without_qwen3vl() == "") == known


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "not installed" in without_qwen3vl()


def test_a_web_ui_that_nobody_knows(tmp_path: Path) -> None:
    assert without_zimage(str(tmp_path)) == ""
    assert "Forge Neo" in UNKNOWN
