"""The folder in which the X/Y/Z plot finds references: what is offered is what begins as a picture."""

from __future__ import annotations

import os
from pathlib import Path

import hosts  # noqa: F401  enters the web UI
import pytest
import tiny
from bounds import bounded
from modules import shared

from zvl_ext.hosts import forge_files

PNG = tiny.encoded(tiny.picture(8, 8), "PNG")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared.cmd_opts, "zvl_reference_dir", str(tmp_path), raising=False)
    return tmp_path


def test_only_files_that_begin_as_pictures_are_offered(folder: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", "notes.txt", "empty.png", "text.png", ".hidden.png"):
        (folder / name).write_bytes(b"" if name == "empty.png" else PNG if name == ".hidden.png" else b"some text")
    (folder / "drawing.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "print.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        (folder / f"a.{kind.lower()}").write_bytes(tiny.encoded(tiny.picture(8, 8), kind))
    (folder / "without ending").write_bytes(PNG)
    assert forge_files.reference_files() == [
        "a.bmp", "a.gif", "a.jpeg", "a.png", "a.tiff", "a.webp", "without ending",
    ]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_what_is_no_file_is_not_offered_and_hides_nothing(folder: Path) -> None:
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").symlink_to(folder / "a.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "nowhere.png").symlink_to(folder / "gone")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "up.png").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    with open(os.fsencode(folder) + b"/half \xff.png", "wb") as file:  # no page can show that name
        file.write(PNG)
    with bounded(seconds=2):
        assert forge_files.reference_files() == ["a.png", "b.png"]


def test_a_folder_that_is_not_there_has_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared.cmd_opts, "zvl_reference_dir", str(folder / "gone"))
    assert forge_files.reference_files() == []
