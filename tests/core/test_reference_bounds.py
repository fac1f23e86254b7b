"""Opening a reference takes a bounded time and memory, whatever it is."""

import struct

import numpy as np
import pytest
import slow_pictures
import tiny
from bounds import bounded
from PIL import Image

from zvl_ext.errors import ZvlError
from zvl_ext.pictures import formats, headers
from zvl_ext.reference import MAX_BYTES, open_reference

MIB = 2**20


@pytest.mark.parametrize("name", slow_pictures.SLOW)
def test_a_file_made_to_take_long_does_not(name):
    make, picture = slow_pictures.SLOW[name]
    data = make()
    assert len(data) <= MAX_BYTES, "otherwise its length alone would be refused"
    with bounded(seconds=8, memory=256 * MIB):
        try:
            opened = open_reference(data)
        except ZvlError as error:
            assert "takes too long" in str(error)  # noqa: PT017
            assert not picture
        else:
            assert picture
            assert opened.image.size[0] in (1, 4)


@pytest.mark.parametrize(("depth", "kind"), [(16, 0), (8, 6)], ids=["16 bits", "transparent"])
def test_a_picture_of_the_most_pixels_takes_bounded_memory(depth, kind):
    data = slow_pictures.png(8000, 8000, depth, kind)
    with bounded(seconds=10, memory=512 * MIB):
        opened = open_reference(data).image
    assert opened.size == (4000, 4000), "halved: the vision tower is shown 1 million pixels at most"


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 98}), ("TIFF", {})])
def test_a_picture_that_is_halved_is_the_mean_of_its_pixels(kind, options, monkeypatch):
    monkeypatch.setattr(formats, "KEPT_PIXELS", 10_000)
    image = tiny.picture(40, 24).resize((321, 201), Image.Resampling.BICUBIC)
    shown = open_reference(tiny.encoded(image, kind, **options)).image
    assert shown.size == (161, 101)
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(image.reduce(2))).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_can_be_halved_and_stays_upright(mode, monkeypatch):
    monkeypatch.setattr(formats, "KEPT_PIXELS", 1_000)
    grey = Image.new("L", (64, 48), 0)
    grey.paste(255, (0, 0, 64, 24))
    image = (
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16"
        else Image.fromarray(np.asarray(grey) / np.float32(255)) if mode == "F" else grey.convert(mode)
    )  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    options = {} if mode in ("CMYK", "F") else {"exif": exif}
    shown = np.asarray(open_reference(tiny.encoded(image, "PNG" if options else "TIFF", **options)).image)
    assert shown.shape == (24, 32, 3)
    top, bottom = (0, 255) if options else (255, 0)
    assert (shown[:12] == top).all()
    assert (shown[12:] == bottom).all()


def test_many_scans_of_a_small_photograph_are_as_good_as_few():
    data = slow_pictures.jpeg_scans(64, 30)
    assert headers.jpeg_scans(data) > 30
    assert open_reference(data).image.size == (64, 64)


def test_what_lies_behind_a_photograph_is_no_scan_of_it():
    """Phones append a film, in which any bytes may be."""
    data = tiny.encoded(tiny.picture(64, 64), "JPEG")
    assert headers.jpeg_scans(data + b"\xff\xda" * 1000) == headers.jpeg_scans(data) == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_directory_is_read_as_it_is_written(order):
    mark = b"II" if order == "<" else b"MM"
    entries = [(256, 4, 1, 640), (273, 4, 3, 200)]
    small = mark + struct.pack(order + "HIH", 42, 8, 2)
    small += b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    large = mark + struct.pack(order + "HHHQQ", 43, 8, 0, 16, 2)
    large += b"".join(struct.pack(order + "HHQI", *entry) + bytes(4) for entry in entries)
    for data, big in ((small, False), (large, True)):
        got = list(headers.directory(data, big))
        assert got == [headers.Entry(256, 4, 1, 4, 640), headers.Entry(273, 4, 3, 12, 0)]
        for end in range(len(data)):
            assert list(headers.directory(data[:end], big)) == got[: len(list(headers.directory(data[:end], big)))]


def jxl_head(width: int, height: int) -> bytes:
    """A codestream's signature and sizes of 30 bits."""
    bits, at = 0, 0
    for value, length in ((0, 1), (3, 2), (height - 1, 30), (0, 3), (3, 2), (width - 1, 30)):
        bits |= value << at
        at += length
    return b"\xff\x0a" + bits.to_bytes(16, "little")


@pytest.mark.parametrize("size", [(1, 1), (640, 480), (100_000, 3), (2**30, 2**30)])
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(size):
    data = jxl_head(*size)
    box = b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 20, b"ftyp") + bytes(12)
    assert headers.jxl_size(data) == size
    assert headers.jxl_size(box + struct.pack(">I4s", 8 + len(data), b"jxlc") + data) == size
    assert headers.jxl_size(box + struct.pack(">I4sI", 12 + len(data), b"jxlp", 0) + data) == size
    assert headers.jxl_size(box) == headers.jxl_size(b"\xff") == headers.jxl_size(b"") == (0, 0)
