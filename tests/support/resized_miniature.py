"""The miniature's Qwen3-VL in other widths. A pytest plugin: test modules name it in `pytest_plugins`."""

from __future__ import annotations

import pytest

from zvl_ext.lab.miniature.resized import write_resized


@pytest.fixture(scope="module")
def resized(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Folders by their width: one lossy, one exact."""
    folder = tmp_path_factory.mktemp("resized")
    for width in (80, 128):
        write_resized(str(folder / f"vl{width}"), width)
    return {width: str(folder / f"vl{width}") for width in (80, 128)}
