"""A reference image of any format and mode is the picture that a person sees; the same pixels have the same digest."""

import base64
import io
import struct

import numpy as np
import pytest
import tiny
from PIL import Image
from pixels import PICTURE, PIXELS, pixels

from zvl_ext.reference import open_file, open_reference

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
