"""The colours of a reference are those that a person sees: profiles are followed, highlights are white."""

import io

import numpy as np
import profiles
import pytest
import tiny
from PIL import Image, ImageCms
from pixels import PICTURE, PIXELS, pixels

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def distance(one, other) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


# --- profiles


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_followed(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    shown = pixels(tiny.encoded(PICTURE, kind, icc_profile=profiles.WIDE, **options))
    assert distance(shown, profiles.by_pillow(PICTURE, profiles.WIDE)) <= 1
    assert distance(shown, PIXELS) > 20, "otherwise this would prove nothing"


def test_a_profile_is_followed_under_transparency():
    image = PICTURE.copy()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    right = profiles.by_pillow(PICTURE, profiles.WIDE)
    right.putalpha(image.getchannel("A"))
    right = Image.alpha_composite(Image.new("RGBA", image.size, "white"), right).convert("RGB")
    assert distance(pixels(tiny.encoded(image, "PNG", icc_profile=profiles.WIDE)), right) <= 1


def test_a_profile_is_followed_in_a_palette():
    image = PICTURE.quantize(16)
    right = profiles.by_pillow(image.convert("RGB"), profiles.WIDE)
    assert distance(pixels(tiny.encoded(image, "PNG", icc_profile=profiles.WIDE)), right) <= 1


@pytest.mark.parametrize("deep", [False, True])
def test_a_profile_of_grey_is_followed(deep):
    grey = Image.linear_gradient("L").resize((64, 32))
    stored = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if deep else grey
    shown = pixels(tiny.encoded(stored, "PNG", icc_profile=profiles.LINEAR_GREY))
    assert distance(shown, profiles.by_pillow(grey, profiles.LINEAR_GREY)) <= 1
    assert distance(shown[..., 0], grey) > 50


def test_a_profile_of_inks_is_followed():
    image = PICTURE.resize((8, 8)).resize((64, 64)).convert("CMYK")
    data = tiny.encoded(image, "TIFF", icc_profile=profiles.INKS)
    shown = pixels(data)
    assert distance(shown, profiles.by_pillow(image, profiles.INKS)) <= 1
    assert distance(shown, image.convert("RGB")) > 50
    photograph = Image.open(io.BytesIO(tiny.encoded(image, "JPEG", quality=95, icc_profile=profiles.INKS)))
    right = profiles.by_pillow(photograph, profiles.INKS)
    assert distance(pixels(tiny.encoded(image, "JPEG", quality=95, icc_profile=profiles.INKS)), right) <= 1


@pytest.mark.parametrize(
    "profile",
    [b"x", profiles.WIDE[:100], profiles.WIDE[:300] + bytes(50), bytes(128), profiles.INKS, profiles.LINEAR_GREY],
    ids=["a byte", "cut head", "cut", "nothing", "of inks", "of grey"],
)
def test_a_profile_that_is_broken_or_another_modes_is_as_none(profile):
    assert np.array_equal(pixels(tiny.encoded(PICTURE, "PNG", icc_profile=profile)), PIXELS)


def test_srgb_under_its_own_name_changes_no_value():
    assert np.array_equal(pixels(tiny.encoded(PICTURE, "PNG", icc_profile=SRGB)), PIXELS)


def test_what_is_opened_carries_no_profile_on():
    """Saved and opened again, the profile would be followed a second time."""
    from zvl_ext.reference import open_reference

    once = open_reference(tiny.encoded(PICTURE, "PNG", icc_profile=profiles.WIDE))
    assert once.image.info == {}
    assert open_reference(tiny.encoded(once.image, "PNG")).digest == once.digest


def test_lab_has_its_colours():
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = Image.new("RGB", (16, 16), (180, 90, 60))
    shown = pixels(tiny.encoded(ImageCms.applyTransform(image, transform), "TIFF"))
    assert distance(shown, image) <= 3


# --- floating point


def shown_of(values) -> list[int]:
    return pixels(tiny.encoded(Image.fromarray(np.array([values], np.float32)), "TIFF"))[0, :, 0].tolist()


def test_one_is_white_and_what_is_over_it_a_highlight():
    assert shown_of([0, 0.25, 0.5, 1]) == [0, 64, 128, 255]
    assert shown_of([0, 0.25, 0.5, 1, 1.5, 40, 65000]) == [0, 64, 128, 255, 255, 255, 255]
    assert shown_of([0.5, 0.5, 2, 3, 4, 5]) == [128, 128, 255, 255, 255, 255], "most of the picture is a highlight"


def test_another_scale_is_one_where_half_of_the_picture_would_be_far_over_white():
    assert shown_of([0, 50, 100, 150, 200, 255]) == [0, 50, 100, 150, 200, 255]
    assert shown_of([0, 25700, 32896, 51400, 65535]) == [0, 100, 128, 200, 255]


def test_what_is_no_number_is_black_and_the_infinite_is_its_end():
    nan, inf = float("nan"), float("inf")
    assert shown_of([nan, inf, -inf, -1, 0.5, 1]) == [0, 255, 0, 0, 128, 255]
    assert shown_of([nan, nan]) == [0, 0]
    assert shown_of([inf, inf]) == [255, 255]
