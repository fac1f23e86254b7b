"""Another view of a picture."""

import numpy as np
import pytest
from PIL import Image

from zvl_ext.fit.views import VIEWS, view


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3).astype(np.uint8)
    return Image.fromarray(ramp)


def test_a_view_is_a_picture_of_the_same_size_and_another(picture):
    seen = [view(picture, seed) for seed in range(8)]
    assert {each.size for each in seen} == {picture.size}
    assert {each.mode for each in seen} == {"RGB"}
    assert len({each.tobytes() for each in [picture, *seen]}) == 9


def test_the_same_seed_gives_the_same_view(picture):
    assert view(picture, 5).tobytes() == view(picture, 5).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_the_smallest_pictures_have_views_too(size):
    assert view(Image.new("RGB", size, (9, 8, 7)), 0).size == size


@pytest.mark.parametrize("change", VIEWS, ids=lambda change: change.__name__)
def test_each_change_keeps_the_size_and_does_something(picture, change):
    made = [change(picture, np.random.default_rng(seed)) for seed in range(6)]
    assert {each.size for each in made} == {picture.size}
    assert any(each.tobytes() != picture.tobytes() for each in made)


def test_a_mirrored_picture_is_the_other_way_round(picture):
    from zvl_ext.fit.views import mirrored

    other = np.asarray(picture)[:, ::-1]
    made = [np.asarray(mirrored(picture, np.random.default_rng(seed))) for seed in range(8)]
    assert any((each == other).all() for each in made)
    assert any((each == np.asarray(picture)).all() for each in made)
