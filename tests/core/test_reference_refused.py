"""A reference image that is none, or text, or too large: one clear line; nothing is fetched or taken for a path."""

import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tiny
from PIL import Image
from pixels import BASE64, PIXELS, PNG, pixels

from zvl_ext import reference
from zvl_ext.errors import ZvlError
from zvl_ext.reference import open_file, open_reference

# --- text


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        "data:image/png;base64," + BASE64,
        "data:application/octet-stream;base64," + BASE64,
        "\n".join(BASE64[i : i + 76] for i in range(0, len(BASE64), 76)),
        "data:image/png;base64,\r\n" + "\r\n".join(BASE64[i : i + 64] for i in range(0, len(BASE64), 64)) + "\r\n",
        "  " + BASE64 + "  ",
    ],
    ids=["bare", "head", "other head", "lines", "head and lines", "spaces"],
)
def test_base64_text_is_a_picture(text):
    assert np.array_equal(pixels(text), PIXELS)


@pytest.mark.parametrize(
    "address", ["http://host/a.png", "https://host/a.png", "HTTPS://host/a.png", " ftp://host/a", "file:///etc/passwd"]
)
def test_addresses_are_never_fetched(address, refused):
    with refused("not fetched"):
        open_reference(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "data:image/png;base64,",
        "/etc/passwd",
        "/etc/hosts/abc",
        "C:\\a.png",
        "a.png",
        "../a.png",
        "AAAA",
        "===",
        "ü",
        "data:,x",
        "null",
        "s3://b/k",
    ],
)
def test_other_text_is_refused_and_never_taken_for_a_path(text, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(PNG)
    with refused("Reference image"):
        open_reference(text)


def test_the_path_of_a_real_picture_is_refused_as_text(tmp_path, refused):
    path = tmp_path / "abcd"  # every character of the path is one of base64
    path.write_bytes(PNG)
    with refused("Reference image"):
        open_reference(str(path))


@pytest.mark.parametrize(
    ("source", "called"),
    [
        (None, "None"),
        (5, "5"),
        (1.5, "1.5"),
        ([], "a list"),
        ({}, "an object"),
        (["a"], "a list"),
        (object(), "something else"),
        (True, "True"),
    ],
)
def test_other_types_are_refused(source, called, refused):
    with refused(f"expected a picture, not {called}. "):
        open_reference(source)


# --- what is not a picture


SVG = (
    b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="10" height="10">'
    b'<rect width="10" height="10"/></svg>'
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
PDF = b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\n%%EOF"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello, I am text",
        SVG,
        EPS,
        PDF,
        b"P6\n2 2\n255\n" + b"a" * 12,
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"\xff\xd8\xff",
    ],
)
def test_other_files_are_refused(data, tmp_path, refused):
    (tmp_path / "looks-like.png").write_bytes(data)
    with refused("Reference image"):
        open_file(tmp_path / "looks-like.png")
    with refused("Reference image"):
        open_reference(data)


def test_a_file_that_is_not_there_is_refused(tmp_path, refused):
    with refused(r"nothing\.png can't be read"):
        open_file(tmp_path / "nothing.png")
    with refused("can't be read"):
        open_file(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_wherever_it_ends(kind, refused):
    data = tiny.encoded(tiny.picture(64, 48), kind)
    for part in (0.02, 0.1, 0.3, 0.6, 0.9):
        with refused("Reference image"):
            open_reference(data[: int(len(data) * part)])


@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it repairs
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_damaged_file_is_a_picture_or_one_clear_line_never_a_traceback(kind):
    """Bytes are changed at random; decoders raise struct.error, KeyError, OverflowError and others on what comes
    out."""
    if kind not in Image.SAVE:
        pytest.skip("this Pillow has no " + kind)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    options = {} if kind in ("GIF", "BMP", "TIFF") else {"exif": exif}
    data = tiny.encoded(tiny.picture(24, 16), kind, **options)
    dice = random.Random(kind)  # noqa: S311
    for _ in range(2000):
        broken = bytearray(data)
        for _ in range(dice.choice((1, 2, 8))):
            broken[dice.randrange(min(len(data), dice.choice((64, 256, len(data)))))] = dice.choice(
                (0, 1, 127, 255, dice.randrange(256))
            )
        try:
            opened = open_reference(bytes(broken))
        except ZvlError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert opened.image.mode == "RGB"


# --- size


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def bmp_header(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


@pytest.mark.parametrize("size", [(60_000, 60_000), (8001, 8000), (12_000, 12_000), (64_000_001, 1)])
@pytest.mark.parametrize("make", [png_header, bmp_header])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_a_pixel_is_decoded(make, size, refused):
    data = make(*size)
    tracemalloc.start()
    try:
        with refused("million pixels"):
            open_reference(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_more_bytes_than_allowed_are_refused_before_they_are_read(tmp_path, refused):
    path = tmp_path / "large.png"
    with open(path, "wb") as file:
        file.truncate(reference.MAX_BYTES + 1)  # sparse: takes no room
    with refused("larger than 64 MiB"):
        open_file(path)


def test_more_bytes_than_allowed_are_refused_in_memory_and_as_text(monkeypatch, refused):
    monkeypatch.setattr(reference, "MAX_BYTES", 1 << 20)
    with refused("more than 1"):
        open_reference(PNG + b"\0" * (1 << 20))
    with refused("1 MiB"):
        open_reference("A" * (2 << 20))


def test_a_picture_with_much_behind_its_end_is_still_that_picture():
    assert np.array_equal(pixels(PNG + b"\0" * 1000), PIXELS)


@pytest.mark.parametrize("size", [(201, 1), (1, 201), (4020, 20), (0, 5)])
def test_too_narrow_pictures_are_refused(size, refused):
    with refused("too narrow"):
        open_reference(Image.new("RGB", size))


def test_a_picture_without_pixels_is_refused(refused):
    with refused("Reference image"):
        open_reference(Image.new("RGB", (0, 0)))


@pytest.mark.parametrize("size", [(1, 1), (200, 1), (3, 600)])
def test_small_and_narrow_pictures_are_taken(size):
    assert open_reference(Image.new("RGB", size)).image.size == size
