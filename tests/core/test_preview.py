"""What the models see of a reference, as a picture."""

import numpy as np
import pytest
import tiny
from PIL import Image

from zvl_ext.options import Settings
from zvl_ext.preview import seen

SQUARE = (512, 512)


def half(size, box):
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def test_a_reference_is_shown_at_its_size_and_none_is_none():
    picture = tiny.picture(96, 64, seed=5)
    assert seen(Settings(), SQUARE) == {}
    shown = seen(Settings.from_mapping({"reference_3": picture, "merge": 1}), SQUARE)
    assert list(shown) == [3]
    assert shown[3].image.tobytes() == picture.tobytes()
    assert (shown[3].tokens, shown[3].kept) == (6, 6)


def test_the_budget_and_the_crop_are_the_readings():
    picture = tiny.picture(640, 320, seed=5)
    settings = Settings.from_mapping({"reference": picture, "reference_tokens": 64, "merge": 1})
    assert seen(settings, SQUARE)[1].image.size == (352, 160)
    assert seen(settings.changed({"crop": "centre"}), SQUARE)[1].image.size == (256, 256)
    assert seen(settings.changed({"merge": 2}), SQUARE)[1].tokens == 6 * 3


def test_tokens_outside_the_mask_are_dark():
    picture = Image.new("RGB", (128, 96), (200, 100, 50))
    settings = Settings.from_mapping(
        {"reference": picture, "merge": 1, "reference_mask": half((64, 64), (0, 0, 32, 64))}
    )
    shown = seen(settings, SQUARE)[1]
    assert (shown.tokens, shown.kept) == (12, 6)
    pixels = np.asarray(shown.image)
    assert (pixels[:, :64] == (200, 100, 50)).all()
    assert (pixels[:, 64:] == (40, 20, 10)).all()
    # Merged tokens are squares of 64 pixels; the last line of them is cut off by the picture.
    merged = seen(settings.changed({"merge": 2, "reference_mask": half((64, 64), (0, 0, 64, 32))}), SQUARE)[1]
    assert (merged.tokens, merged.kept) == (4, 2)
    assert (np.asarray(merged.image)[:64] == (200, 100, 50)).all()
    assert (np.asarray(merged.image)[64:] == (40, 20, 10)).all()


def test_without_image_tokens_a_mask_leaves_out_nothing():
    settings = Settings.from_mapping(
        {"preset": "Research default", "reference": tiny.picture(64, 64, seed=1),
         "reference_mask": half((64, 64), (0, 0, 32, 64))}
    )  # fmt: skip
    assert seen(settings, SQUARE)[1].kept == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [({"reference_mask": Image.new("L", (8, 8), 0)}, "nothing of the reference"), ({"reference": "x"}, "Reference")],
)
def test_what_can_not_be_read_is_refused(values, says, refused):
    settings = Settings.from_mapping({"reference": tiny.picture(64, 64, seed=1), **values})
    with refused(says):
        seen(settings, SQUARE)
