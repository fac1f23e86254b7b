"""The size that a reference image is brought to: that of Qwen's own image processor, within the budget of tokens."""

import math
import random

import numpy as np
import pytest
import tiny
from PIL import Image

from zvl_ext.reference import fitted_size, open_reference, sized

if tiny.is_version_4():
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize
else:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize


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
