"""A reference image: whatever comes in, either the picture a person sees or one clear line."""

import base64
import io
import math
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tiny
from PIL import Image

from zvl_ext import reference
from zvl_ext.errors import ZvlError
from zvl_ext.reference import fitted_size, open_file, open_reference, sized

if tiny.is_version_4():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
else:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

PICTURE = tiny.picture(40, 24)
PIXELS = np.asarray(PICTURE)


def pixels(source) -> np.ndarray:
    """What the vision tower will be shown."""
    opened = open_reference(source).image
    assert opened.mode == "RGB"
    return np.asarray(opened)


# --- formats and modes


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_every_pixel(kind):
    assert np.array_equal(pixels(tiny.encoded(PICTURE, kind)), PIXELS)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(kind):
    smooth = PICTURE.resize((8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(pixels(tiny.encoded(smooth, kind, quality=95)).astype(int) - np.asarray(smooth)).mean() < 3


def test_transparent_parts_become_white():
    alpha = np.zeros(PIXELS.shape[:2], np.uint8)
    alpha[:, :20], alpha[:, 20:30] = 255, 128
    image = Image.fromarray(np.dstack([PIXELS, alpha]), "RGBA")
    weight = alpha[..., None] / 255.0
    expected = PIXELS * weight + 255 * (1 - weight)
    shown = pixels(tiny.encoded(image, "PNG"))
    assert np.abs(shown - expected).max() <= 1
    assert np.array_equal(shown[:, :20], PIXELS[:, :20])
    assert (shown[:, 30:] == 255).all()


def test_grey_with_transparency_becomes_white_where_nothing_is():
    grey = np.full((8, 8), 90, np.uint8)
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4] = 255
    shown = pixels(tiny.encoded(Image.merge("LA", (Image.fromarray(grey), Image.fromarray(alpha))), "PNG"))
    assert (shown[:4] == 90).all()
    assert (shown[4:] == 255).all()


def test_a_palette_with_a_transparent_entry_becomes_white_there():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 0])
    image.paste(1, (0, 0, 4, 8))
    shown = pixels(tiny.encoded(image, "PNG", transparency=0))
    assert (shown[:, :4] == (200, 100, 50)).all()
    assert (shown[:, 4:] == 255).all()


def test_a_transparent_color_without_an_alpha_channel_becomes_white():
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    image.paste((200, 100, 50), (0, 0, 4, 8))
    shown = pixels(tiny.encoded(image, "PNG", transparency=(1, 2, 3)))
    assert (shown[:, :4] == (200, 100, 50)).all()
    assert (shown[:, 4:] == 255).all()


def test_a_palette_keeps_its_colors():
    image = PICTURE.quantize(16)
    assert np.array_equal(pixels(tiny.encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    values = np.linspace(0, 65535, 32 * 8).reshape(8, 32).astype(np.uint16)
    shown = pixels(tiny.encoded(Image.fromarray(values), kind))
    assert np.abs(shown[..., 0] - values / 65535 * 255).max() <= 1


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    """The same exposure shows the same whatever the brightest pixel is: 200 of 65535 is black, not 200 of 255."""
    values = np.full((8, 8), 200, np.uint16)
    assert pixels(tiny.encoded(Image.fromarray(values), "PNG")).max() <= 1


def test_one_bit_is_black_and_white():
    image = Image.new("1", (16, 8), 0)
    image.paste(1, (0, 0, 8, 8))
    shown = pixels(tiny.encoded(image, "PNG"))
    assert (shown[:, :8] == 255).all()
    assert (shown[:, 8:] == 0).all()


def test_a_cmyk_photograph_has_its_colors():
    image = Image.new("RGB", (32, 32), (200, 60, 30))
    shown = pixels(tiny.encoded(image.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(shown.astype(int) - (200, 60, 30)).max() <= 6


# How a camera that is held in each of the eight ways stores an upright scene (EXIF 2.32, tag 0x0112).
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_rotated_photograph_is_the_upright_one(orientation, kind):
    scene = np.asarray(tiny.picture(8, 8).resize((48, 32), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](scene)))
    shown = pixels(tiny.encoded(stored, kind, exif=exif, quality=98))
    assert shown.shape == scene.shape
    assert np.abs(shown.astype(int) - scene).mean() < 3


# Tags whose stored type is not the one the standard wants, as careless editors and cameras write them: (tag, type,
# count, value).
ODD_EXIF = {
    "resolution unit as bytes": (0x0128, 7, 1, 1),
    "resolution unit as a fraction": (0x0128, 5, 1, 0),
    "resolution as text": (0x011A, 2, 2, 26),
    "interoperability as bytes": (0xA005, 7, 5, 0),
    "version as a number": (0x9000, 11, 5, 1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", ODD_EXIF)
def test_a_photograph_with_an_odd_entry_in_its_exif_is_upright_all_the_same(odd):
    """Only the orientation matters; writing the other entries anew, as ImageOps.exif_transpose does, raises on
    these."""
    entries = [(0x0112, 3, 1, 6), ODD_EXIF[odd]]
    exif = (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", len(entries))
        + b"".join(struct.pack("<HHII", *e) for e in entries)
        + b"\0" * 4
    )
    scene = np.asarray(tiny.picture(8, 8).resize((48, 32), Image.Resampling.BICUBIC))
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[6](scene)))
    shown = pixels(tiny.encoded(stored, "JPEG", exif=exif, quality=98))
    assert shown.shape == scene.shape
    assert np.abs(shown.astype(int) - scene).mean() < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    options = {"lossless": True} if kind == "WEBP" else {}
    shown = pixels(tiny.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert np.abs(shown.astype(int) - (250, 0, 0)).max() <= 3


def test_an_open_animation_shows_its_first_frame_wherever_it_stands():
    data = tiny.encoded(Image.new("L", (8, 8), 10), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 200)])
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    assert (pixels(image) == 10).all()


def test_an_opened_picture_whose_file_is_damaged_is_refused(refused):
    """Pillow decodes late: an opened image may turn out to be damaged only here."""
    data = tiny.encoded(PICTURE, "PNG")
    with refused("Reference image"):
        open_reference(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_opening_leaves_the_given_picture_as_it_was():
    image = tiny.picture(16, 16).convert("RGBA")
    before = image.tobytes()
    open_reference(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


# --- the digest


def test_the_same_pixels_have_the_same_digest_however_they_come(tmp_path):
    digest = open_reference(PICTURE).digest
    png = tiny.encoded(PICTURE, "PNG")
    (tmp_path / "a.png").write_bytes(png)
    for source in (
        png,
        bytearray(png),
        tiny.encoded(PICTURE, "BMP"),
        base64.b64encode(png).decode(),
        PICTURE.convert("RGBA"),
    ):
        assert open_reference(source).digest == digest
    assert open_file(tmp_path / "a.png").digest == digest
    assert open_file(tmp_path / "a.png").name == "a.png"
    assert len(digest) == 64


def test_other_pixels_have_another_digest():
    changed = PICTURE.copy()
    changed.putpixel((3, 3), (0, 0, 0))
    assert open_reference(changed).digest != open_reference(PICTURE).digest


def test_the_same_bytes_in_another_shape_have_another_digest():
    assert open_reference(Image.new("RGB", (10, 40))).digest != open_reference(Image.new("RGB", (40, 10))).digest


def test_a_reference_is_taken_as_it_is():
    opened = open_reference(PICTURE, "name")
    assert open_reference(opened) is opened


# --- text


PNG = tiny.encoded(PICTURE, "PNG")
BASE64 = base64.b64encode(PNG).decode()


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


@pytest.mark.parametrize("source", [None, 5, 1.5, [], {}, ["a"], object(), True])
def test_other_types_are_refused(source, refused):
    with refused("expected a picture, not " + type(source).__name__):
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


# --- fitted_size


def sizes() -> list[tuple[int, int]]:
    dice = random.Random(7)  # noqa: S311
    drawn = [(dice.randint(17, 4000), dice.randint(17, 4000)) for _ in range(400)]
    drawn += [(dice.randint(17, 300), dice.randint(17, 300)) for _ in range(400)]
    return (
        drawn
        + [(side, side) for side in (17, 31, 32, 33, 47, 48, 49, 64, 511, 512, 513, 768, 1024, 4096)]
        + [(3000, 17), (20, 3999)]
    )


@pytest.mark.parametrize("unit", [32, 28, 16])
@pytest.mark.parametrize("tokens", [4, 16, 64, 256, 576, 1024])
def test_the_size_is_that_of_qwens_image_processor(tokens, unit):
    """Sides of at least half a unit: below that the processor enlarges. Where it goes over the budget (very narrow), we
    do not."""
    compared = 0
    for width, height in sizes():
        wanted = smart_resize(height, width, factor=unit, min_pixels=unit * unit, max_pixels=tokens * unit * unit)
        if min(width, height) * 2 > unit and wanted[0] * wanted[1] <= tokens * unit * unit:
            assert fitted_size(width, height, tokens, unit) == wanted[::-1], (width, height)
            compared += 1
    assert compared > 600


def test_the_size_is_always_whole_units_within_the_budget():
    dice = random.Random(8)  # noqa: S311
    for _ in range(20_000):
        side = dice.choice((40, 400, 20_000))
        width, height, tokens, unit = (
            dice.randint(1, side),
            dice.randint(1, side),
            dice.randint(1, 1024),
            dice.choice((16, 28, 32)),
        )
        got = fitted_size(width, height, tokens, unit)
        assert all(s % unit == 0 and s >= unit for s in got), (width, height, tokens, unit, got)
        assert got[0] * got[1] <= tokens * unit * unit, (width, height, tokens, unit, got)
        # Never enlarged by more than the rounding to whole units.
        assert got[0] < width + unit
        assert got[1] < height + unit


def test_the_size_is_the_same_lying_and_standing():
    for width, height in sizes():
        assert fitted_size(width, height, 256) == fitted_size(height, width, 256)[::-1]


def test_a_wide_picture_uses_most_of_its_budget():
    for width, height in sizes():
        if width * height > 300 * 1024 and max(width, height) < 3 * min(width, height):
            columns, rows = (side // 32 for side in fitted_size(width, height, 256))
            assert columns * rows > 256 * 0.8, (width, height)
            assert math.isclose(columns / rows, width / height, rel_tol=0.2)


def test_a_picture_of_the_right_size_is_not_resampled():
    image = tiny.picture(96, 64)
    assert np.array_equal(np.asarray(sized(open_reference(image), 6)), np.asarray(image))


def test_a_picture_over_the_budget_is_scaled_down_bicubically():
    image = tiny.picture(200, 100)
    small = sized(open_reference(image), 8)
    assert small.size == (128, 64)
    assert np.array_equal(np.asarray(small), np.asarray(image.resize((128, 64), Image.Resampling.BICUBIC)))
