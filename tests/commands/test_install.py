"""The set-up's environments: made once, kept as they are, and removed again."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
_PIP = ("-m", "pip", "install", "--disable-pip-version-check")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, in a folder of its own; `ran` has the programs that it would have started."""
    spec = importlib.util.spec_from_file_location("zvl_install", ROOT / "install.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ran = []

    def create(folder: str, with_pip: bool) -> None:
        python = Path(folder, "Scripts/python.exe" if os.name == "nt" else "bin/python")
        python.parent.mkdir(parents=True)
        python.touch()
        Path(folder, "pyvenv.cfg").touch()

    class Done:
        returncode = 0

    def run(command: list[str], **more: Any) -> Done:
        module.ran.append(command[1:])
        return Done()

    monkeypatch.setattr(module, "ROOT", str(tmp_path))
    monkeypatch.setattr(module.venv, "create", create)
    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def test_an_environment_is_made_once(install: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    python = install.environment(".venv-demo", "torch", "numpy")
    assert install.ran == [[*_PIP, "torch", "numpy"]]
    said = capsys.readouterr().out
    assert str(tmp_path / ".venv-demo") in said
    assert "GB" in said.splitlines()[-1]
    assert install.environment(".venv-demo", "numpy") == python
    assert len(install.ran) == 1, "what is there is not installed again"
    assert capsys.readouterr().out == ""
    install.environment(".venv-demo", "numpy", "torch", "gradio==4.40.0")
    assert install.ran[1:] == [[*_PIP, "numpy", "torch", "gradio==4.40.0"]]


def test_one_that_was_not_finished_is_finished(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(install.subprocess, "run", fails)
        with pytest.raises(KeyboardInterrupt):
            install.environment(".venv-demo", "torch")
    install.environment(".venv-demo", "torch")
    assert len(install.ran) == 1


def test_they_can_be_removed(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install.environment(".venv-demo", "torch")
    mine = tmp_path / ".venv-notes"
    mine.mkdir()
    for name in ("other", ".hypothesis", ".pytest_cache"):
        (tmp_path / name / "v").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["install.py", "remove"])
    assert install.main() == 0
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".venv-notes", "other"], "only environments go, and what the tests have noted"


def test_the_demo_and_the_tests_use_them(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["install.py", "demo", "--seed", "3"])
    assert install.main() == 0
    assert install.ran[-1] == ["-m", "zvl_ext", "demo", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["install.py", "test", "--transformers", "4.57.6", "tests/core", "-n", "0"])
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert install.main() == 0
    assert install.ran[-1] == ["-m", "pytest", "-n", "4", "tests/core", "-n", "0"], "pytest takes the last one"
