"""References from files that are none, and of formats that depend on what is installed."""

import io
import os
import sys

import numpy as np
import pytest
import tiny
from bounds import bounded
from PIL import EpsImagePlugin, Image
from pixels import PICTURE, PIXELS, PNG

from zvl_ext.errors import ZvlError
from zvl_ext.pictures import formats
from zvl_ext.reference import Upload, open_file, open_reference

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes")

# --- files that are none


def test_what_is_no_file_is_refused_at_once(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    with bounded(seconds=2):
        for name, kind in {
            "pipe.png": "a pipe",
            "loop.png": "not to be reached",
            "nowhere.png": "a link that leads nowhere",
            "folder.png": "a folder",
            "zero.png": "a device",
            "gone.png": "not there",
        }.items():
            with refused(rf"{name} can't be read \(it is {kind}"):
                open_file(tmp_path / name)
            with refused("can't be read"):
                open_reference(Upload(str(tmp_path / name)))
    with refused("can't be read"):
        open_file("a\0b.png")


def test_a_file_that_grows_is_not_read_for_ever(refused):
    """Some files of the system say that they are empty and are not."""
    with bounded(seconds=5), refused("Reference image"):
        open_file("/proc/self/maps")


def test_an_upload_is_its_file(tmp_path):
    (tmp_path / "0123.png").write_bytes(PNG)
    opened = open_reference(Upload(str(tmp_path / "0123.png"), "cat.png"))
    assert np.array_equal(np.asarray(opened.image), PIXELS)
    assert opened.name == "cat.png"
    assert open_reference(Upload(str(tmp_path / "0123.png"))).name == "0123.png"


def test_a_link_to_a_picture_is_that_picture(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert open_file(tmp_path / "b.png").digest == open_file(tmp_path / "a.png").digest


# --- formats


def test_an_opened_file_obeys_the_same_formats(monkeypatch, refused):
    """Pillow decodes late: EPS would reach Ghostscript only here."""
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("another program was started"))
    eps = Image.open(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"))
    ppm = Image.open(io.BytesIO(tiny.encoded(PICTURE, "PPM")))
    for image in (eps, ppm):
        with refused("not a picture I can read"):
            open_reference(image)
    assert np.array_equal(np.asarray(open_reference(Image.open(io.BytesIO(PNG))).image), PIXELS)


def test_the_refusal_lists_what_can_be_read_here(refused):
    formats._load_decoders()
    listed = {"PNG": "PNG", "JPEG": "JPEG", "WEBP": "WebP", "GIF": "GIF", "BMP": "BMP", "TIFF": "TIFF"}
    listed |= {key: name for key, name in {"AVIF": "AVIF", "HEIF": "HEIC", "JXL": "JPEG XL"}.items()
               if key in Image.OPEN and formats._takes(key, formats.FORMATS[key].sign)}  # fmt: skip
    *names, last = listed.values()
    with refused(f"Use {', '.join(names)} or {last}\\.$"):
        open_reference(b"<svg xmlns='http://www.w3.org/2000/svg'/>")


def test_a_decoder_that_is_installed_is_found_and_listed(monkeypatch, refused):
    """Another format's sign, with the decoder of PNG behind it."""
    calls = []
    plugin = type(sys)("pillow_heif")
    plugin.register_avif_opener = lambda: calls.append("avif")

    def register() -> None:
        factory = lambda file, name: Image.open(io.BytesIO(file.read()[12:]))  # noqa: E731
        monkeypatch.setitem(Image.OPEN, "HEIF", (factory, lambda start: start[4:12] == b"ftypheic"))

    plugin.register_heif_opener = register
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    formats._load_decoders.cache_clear()
    try:
        data = b"\0\0\0\x18ftypheic" + PNG
        assert formats.may_be_picture(data)
        assert np.array_equal(np.asarray(open_reference(data).image), PIXELS)
        with refused("HEIC"):
            open_reference(b"nothing")
    finally:
        formats._load_decoders.cache_clear()


def test_a_pillow_without_a_decoder_does_not_list_it(monkeypatch):
    """It knows the sign, and says in words that the decoder is missing."""
    monkeypatch.setitem(Image.OPEN, "WEBP", (None, lambda start: "support is not installed"))
    assert "WebP" not in formats.readable()
    assert "PNG" in formats.readable()


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "JXL"])
def test_formats_of_installed_libraries_are_read(kind):
    formats._load_decoders()
    if not formats._takes(kind, formats.FORMATS[kind].sign) or kind not in Image.SAVE:
        pytest.skip(f"nothing here writes {kind}")
    smooth = PICTURE.resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    shown = np.asarray(open_reference(tiny.encoded(smooth, kind, quality=95)).image)
    assert np.abs(shown.astype(int) - np.asarray(smooth)).mean() < 4


class Panic(BaseException):
    """What a decoder in Rust raises."""


@pytest.mark.parametrize(
    "raised",
    [Panic("at line 3\n of a file"), RecursionError("deep"), MemoryError(), KeyError(5), OverflowError("x" * 999)],
)
def test_whatever_a_decoder_raises_is_one_line(raised, monkeypatch):
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(formats, "to_srgb", fail)
    with pytest.raises(ZvlError) as caught:
        open_reference(PNG)
    line = str(caught.value)
    assert line.startswith("Reference image: ")
    assert len(line) <= 300
    assert len(line.splitlines()) == 1
    assert type(raised).__name__ not in line


def test_exif_that_can_not_be_read_turns_nothing():
    for exif in (
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM",
        b"x",
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0abc\0",
    ):
        assert np.array_equal(np.asarray(open_reference(tiny.encoded(PICTURE, "PNG", exif=exif)).image), PIXELS)
