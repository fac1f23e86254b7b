"""The panel's control for the reference takes files and opens none; what a browser can't show is shown as PNG."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import hosts  # noqa: F401  enters the web UI, so it goes before gradio and everything that imports it
import pytest

pytest.importorskip("gradio")

import gradio as gr
import tiny
from gradio.data_classes import FileData
from PIL import Image

from zvl_ext.errors import ZvlError
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.reference import Upload, open_reference
from zvl_ext.webui import dropped, panel

PICTURE = tiny.picture(96, 64)
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
NO_PICTURES = {
    "a.heic": (HEIC, "damaged|not a picture I can read"),
    "cut.jpg": (tiny.encoded(PICTURE, "JPEG")[:-300], "damaged"),
    "a.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture I can read"),
    "a.eps": (EPS, "not a picture I can read"),
    "a.gif": (b"GIF89a", "Reference image"),
    "notes": (b"text", "not a picture I can read"),
}


@pytest.fixture
def control() -> Any:
    return panel._control(BY_NAME["reference"], "x", None)


def dropped_file(folder: Path, name: str, data: bytes) -> FileData:
    (folder / name).write_bytes(data)
    return FileData(path=str(folder / name), orig_name=name)


@pytest.mark.parametrize("name", NO_PICTURES)
def test_a_file_that_is_no_picture_gets_the_extensions_own_line(
    control: Any, tmp_path: Path, name: str, refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, line = NO_PICTURES[name]
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened before it was needed"))
        value = control.preprocess(dropped_file(tmp_path, name, data))
        Settings(reference=value)  # what a picture without the extension makes of it
    with refused(line):
        open_reference(value)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF"])
def test_a_picture_is_the_one_in_the_file(control: Any, tmp_path: Path, kind: str) -> None:
    image = PICTURE.quantize(8) if kind == "GIF" else PICTURE
    value = control.preprocess(dropped_file(tmp_path, f"a.{kind.lower()}", tiny.encoded(image, kind)))
    assert open_reference(value).image.tobytes() == image.convert("RGB").tobytes()
    assert open_reference(value).name == f"a.{kind.lower()}"


def test_nothing_is_nothing(control: Any) -> None:
    assert control.preprocess(None) is None
    assert control.postprocess(None) is None


def test_a_picture_set_from_python_keeps_every_pixel(control: Any) -> None:
    made = control.postprocess(PICTURE)
    assert open_reference(control.preprocess(made)).image.tobytes() == PICTURE.tobytes()


def test_no_address_is_fetched(control: Any) -> None:
    for address in ("http://127.0.0.1:1/a.png", "https://host/a.png"):
        with pytest.raises(gr.Error, match="not fetched"):
            asyncio.run(control.async_move_resource_to_block_cache(address))


def test_gradio_leaves_no_file_beside_the_module() -> None:
    assert not Path(dropped.__file__).with_suffix(".pyi").exists()


def test_what_a_browser_shows_is_left_as_it_is(tmp_path: Path) -> None:
    def unneeded(_: Any) -> Any:
        pytest.fail("there is no need")

    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        (tmp_path / "a").write_bytes(tiny.encoded(PICTURE, kind))
        assert "value" not in dropped.preview(lambda: None, unneeded, Upload(str(tmp_path / "a")))
    assert "value" not in dropped.preview(lambda: None, unneeded, None)


def test_what_it_does_not_show_is_shown_as_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiny.encoded(PICTURE, "TIFF"))
    made = []
    shown = dropped.preview(lambda: made.append(True), open_reference, Upload(str(tmp_path / "a.tif")))
    assert made == [True], "the web UI's folder for temporary pictures"
    out = io.BytesIO()
    shown["value"].save(out, "PNG")
    assert open_reference(out.getvalue()).digest == open_reference(PICTURE).digest


def test_what_can_not_be_opened_is_said_at_once_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a.eps").write_bytes(EPS)
    with pytest.warns(UserWarning, match="^Z-Image VL: Reference image: this is not a picture I can read"):
        assert "value" not in dropped.preview(lambda: None, open_reference, Upload(str(tmp_path / "a.eps")))


def test_text_in_a_request_is_never_an_upload(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(tiny.encoded(PICTURE, "PNG"))
    path = str(tmp_path / "a.png")
    for value in (path, {"path": path}, {"path": path, "meta": {"_type": "gradio.FileData"}}, [path]):
        with pytest.raises(ZvlError):
            open_reference(value)
