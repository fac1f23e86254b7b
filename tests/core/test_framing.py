"""Which part of a reference is read."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from zvl_ext.framing import CROPS, framed, framed_mask, mask_of
from zvl_ext.mixing.select import Rows, keep_masked_image_rows
from zvl_ext.reference import Reference, open_mask, open_reference


@pytest.fixture
def wide() -> Reference:
    return open_reference(tiny.picture(120, 60))


@pytest.mark.parametrize("crop", CROPS)
def test_a_reference_of_the_pictures_shape_stays_as_it_is(crop: str, wide: Reference) -> None:
    assert framed(wide, crop, (1024, 512)) is wide


@pytest.mark.parametrize(("shape", "size"), [((1, 1), (60, 60)), ((1, 2), (30, 60)), ((4, 1), (120, 30))])
def test_the_centre_is_cut_out(shape: tuple[int, int], size: tuple[int, int], wide: Reference) -> None:
    got = framed(wide, "centre", shape)
    assert got.image.size == size
    left, top = (120 - size[0]) // 2, (60 - size[1]) // 2
    whole = np.asarray(wide.image)
    assert np.array_equal(np.asarray(got.image), whole[top : top + size[1], left : left + size[0]])
    assert got.digest != wide.digest
    assert got.digest == open_reference(got.image).digest  # what is kept of it is known again


@pytest.mark.parametrize(("shape", "size"), [((1, 1), (120, 120)), ((1, 2), (120, 240)), ((4, 1), (240, 60))])
def test_padding_keeps_all_of_it_on_grey(shape: tuple[int, int], size: tuple[int, int], wide: Reference) -> None:
    got = np.asarray(framed(wide, "pad", shape).image)
    assert got.shape == (size[1], size[0], 3)
    left, top = (size[0] - 120) // 2, (size[1] - 60) // 2
    inside = np.zeros(got.shape[:2], bool)
    inside[top : top + 60, left : left + 120] = True
    assert np.array_equal(got[inside], np.asarray(wide.image).reshape(-1, 3))
    assert (got[~inside] == 128).all()


def test_a_mask_is_cropped_with_its_reference(wide: Reference) -> None:
    mask = Image.new("L", (40, 20), 0)
    mask.paste(255, (20, 0, 40, 20))  # the right half, at a third of the size
    opened = open_reference(mask)
    for crop, part in (("whole", slice(60, 120)), ("centre", slice(30, 60))):
        got = framed_mask(opened, wide, crop, (1, 1))
        assert got[:, part.start + 2 :].min() == 1.0
        assert got[:, : part.start - 2].max() == 0.0
    padded = framed_mask(opened, wide, "pad", (1, 1))
    assert padded.shape == (120, 120)
    assert not padded[:30].any()  # beside the reference nothing counts
    assert not padded[90:].any()


def test_a_large_mask_is_made_smaller() -> None:
    got = mask_of(open_reference(Image.new("L", (3000, 1500), 255)))
    assert got.shape == (512, 1024)
    assert (got == 1.0).all()


def rows_of(lines: int, columns: int) -> Rows:
    count = lines * columns
    image = torch.tensor([False] * 3 + [True] * count + [False] * 2)
    text = torch.tensor([True, True] + [False] * (count + 2) + [True])  # a marker on either side
    return Rows(torch.arange(count + 5.0)[:, None], text, image, 2, 0, (lines, columns))


def test_image_rows_outside_a_mask_are_left_out() -> None:
    mask = torch.zeros(40, 60)
    mask[:20, 30:] = 1.0  # of the first line its last two columns
    kept = keep_masked_image_rows(rows_of(2, 4), mask)
    assert kept.states.flatten().tolist() == [0, 1, 2, 5, 6, 11, 12]
    assert int(kept.image.sum()) == 2


def test_a_full_mask_leaves_everything() -> None:
    kept = keep_masked_image_rows(rows_of(3, 3), torch.ones(5, 7))
    assert torch.equal(kept.states, rows_of(3, 3).states)


def test_a_mask_with_less_than_half_of_any_token_keeps_the_one_with_most() -> None:
    mask = torch.zeros(40, 40)
    mask[20:26, 0:10] = 1.0
    kept = keep_masked_image_rows(rows_of(4, 4), mask)
    assert int(kept.image.sum()) == 1
    assert kept.states[kept.image].item() == 3 + 8


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("encoded", [True, False])
def test_what_is_transparent_in_a_mask_is_not_painted(mode: str, encoded: bool) -> None:
    """Strokes on a layer of their own, as other programs save them: on white, as references are, they would vanish."""
    layer = Image.new("RGBA", (8, 6), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (0, 0, 4, 6))
    layer = layer.convert(mode)
    mask = mask_of(open_mask(tiny.encoded(layer, "PNG") if encoded else layer))
    assert torch.equal(mask, torch.cat([torch.ones(6, 4), torch.zeros(6, 4)], dim=1))
    assert open_reference(layer).image.getextrema() == ((255, 255),) * 3
