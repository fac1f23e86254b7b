"""An untrained miniature, made once for all tests that draw pictures with one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from zvl_ext.reference import Reference, open_reference

if TYPE_CHECKING:
    from zvl_ext.lab import demo


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import miniature  # needs diffusers, which not every test here does

    return miniature.save_untrained(tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def weights(weights_folder: Path) -> demo.Weights:
    from zvl_ext.lab import demo

    given = {
        "z_image": None,
        "qwen3_vl": None,
        "weights": str(weights_folder),
        "size": None,
        "steps": 1,
        "guidance": None,
        "device": "cpu",
    }
    return demo.open_weights(argparse.Namespace(**given))


@pytest.fixture(scope="session")
def drawn() -> Reference:
    from zvl_ext.lab import demo
    from zvl_ext.lab.miniature import world

    return open_reference(Image.fromarray(world.draw(demo.REFERENCE, 0)))


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two profiles that come with the miniature: "soft" and "hard"."""
    import miniature

    from zvl_ext.lab.miniature import learned

    folder = tmp_path / "profiles"
    folder.mkdir()
    monkeypatch.setitem(learned.FOLDERS, "profile", str(folder))
    miniature.write_profile(folder, "soft")
    miniature.write_profile(folder, "hard", -6.0)
    return folder
