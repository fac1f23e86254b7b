"""Each measure on constructed pictures: what is added raises its own measure, and leaves the others."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from zvl_ext.measures import DIVERSITY, METRICS, Metric, Shown, measured, pixels, there

SIDE = 160
rng = np.random.default_rng(0)


def smooth(seed: int, side: int = SIDE) -> np.ndarray:
    """Soft patches of colour, as pictures have them: [side, side, 3], 0 to 1."""
    small = np.random.default_rng(seed).uniform(0.2, 0.8, (7, 7, 3))
    picture = Image.fromarray((small * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def image(values: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(values, 0, 1) * 255).round().astype(np.uint8))


def value(name: str, picture: np.ndarray, reference: np.ndarray | None = None) -> float:
    metric = METRICS[name]
    if metric.missing:
        pytest.skip("scikit-image is not there")
    return metric.function(Shown(image(picture), None if reference is None else image(reference)))


def with_grid(picture: np.ndarray, period: int = 16, depth: float = 0.08, lines: bool = False) -> np.ndarray:
    """Blocks of another brightness side by side, or dark lines, every so many pixels."""
    place = np.arange(len(picture))
    along = (place % period == 0) * 2.0 if lines else (place // period) % 2
    return picture + depth * (along[:, None] + along[None, :] - 1)[..., None].astype(np.float32)


BASE, OTHER = smooth(1), smooth(2)
GREY = np.repeat((BASE @ np.float32([0.299, 0.587, 0.114]))[..., None], 3, 2)  # of the same brightness
NOISY = BASE + np.random.default_rng(3).normal(0, 0.05, BASE.shape).astype(np.float32)


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("depth", [0.02, 0.08])
def test_a_grid_raises_grid_energy_and_no_other_measure_by_much(lines: bool, depth: float) -> None:
    gridded = with_grid(BASE, depth=depth, lines=lines)
    plain = value("grid", BASE)
    assert value("grid", gridded) > 10 * plain + 0.1
    assert value("grid", with_grid(NOISY, depth=depth, lines=lines)) > (3 if depth > 0.05 else 1.5) * value(
        "grid", NOISY
    )
    assert abs(value("saturation", gridded) - value("saturation", BASE)) < 0.01
    assert value("ssim", gridded, BASE) > 0.5


@pytest.mark.parametrize("period", [7, 11, 20, 24])
def test_what_comes_again_at_another_period_is_no_grid_of_patches(period: int) -> None:
    """At such periods that share no harmonic with the patches' but their common multiples."""
    assert value("grid", with_grid(BASE, period)) < 0.5 * value("grid", with_grid(BASE, 16))


def test_grid_energy_grows_with_the_grid_and_does_not_hang_on_where_it_begins() -> None:
    depths = [value("grid", with_grid(BASE, depth=depth)) for depth in (0.02, 0.04, 0.08)]
    assert depths == sorted(depths)
    assert depths[2] == pytest.approx(4 * depths[0], rel=0.3)
    moved = np.roll(with_grid(BASE), (5, 9), (0, 1))
    assert value("grid", moved) == pytest.approx(depths[2], rel=0.3)


def test_a_picture_without_anything_has_no_grid_and_no_sharpness() -> None:
    flat = np.full((SIDE, SIDE, 3), 0.4, np.float32)
    assert value("grid", flat) == value("sharpness", flat) == value("saturation", flat) == 0
    assert value("grid", np.full((20, 20, 3), 0.4, np.float32)) == 0  # too small for three periods


def test_sharpness_falls_when_blurred_and_rises_with_noise() -> None:
    fine = with_grid(BASE, 2)
    blurred = np.asarray(image(fine).resize((20, 20), Image.Resampling.BOX).resize((SIDE, SIDE)), np.float32) / 255
    assert value("sharpness", blurred) < 0.5 * value("sharpness", fine)
    assert value("sharpness", NOISY) > 3 * value("sharpness", BASE)


def test_saturation_is_nothing_of_grey_and_all_of_pure_colours() -> None:
    red = np.zeros((32, 32, 3), np.float32)
    red[..., 0] = 1
    assert value("saturation", GREY) < 0.005
    assert value("saturation", red) == 1
    stronger = BASE + 0.5 * (BASE - GREY)
    assert value("saturation", stronger) > 1.2 * value("saturation", BASE)
    assert value("sharpness", GREY) == pytest.approx(value("sharpness", BASE), abs=1)  # 8 bits


def test_the_same_picture_is_nearest_in_all_ways() -> None:
    assert value("histogram", BASE, BASE) == pytest.approx(0, abs=1e-3)
    assert value("ssim", BASE, BASE) == pytest.approx(1)
    assert value("edges", BASE, BASE) == pytest.approx(1)
    assert value("histogram", BASE, OTHER) > 0.1
    assert value("ssim", BASE, OTHER) < 0.9
    assert value("edges", BASE, OTHER) < 0.6


def test_colours_and_structure_are_told_apart() -> None:
    """The same pixels in other places have the same colours; the same places in other colours the same edges."""
    shuffled = BASE.reshape(-1, 3)[rng.permutation(SIDE * SIDE)].reshape(BASE.shape)
    assert value("histogram", shuffled, BASE) == pytest.approx(0, abs=1e-3)
    assert value("edges", shuffled, BASE) < 0.3
    inverted = 1 - BASE
    assert value("histogram", inverted, BASE) > 0.2
    assert value("edges", inverted, BASE) > 0.95


def test_disjoint_colours_are_as_far_apart_as_can_be() -> None:
    black, white = np.zeros((16, 16, 3), np.float32), np.ones((16, 16, 3), np.float32)
    assert value("histogram", black, white) == 1
    assert 0 < value("histogram", black, black + 0.05) < 1  # a small shift is a small distance


def test_ssim_is_scikit_images_own() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    expected = metrics.structural_similarity(
        np.asarray(image(BASE)), np.asarray(image(OTHER)), channel_axis=2, data_range=255
    )
    assert value("ssim", BASE, OTHER) == pytest.approx(expected, abs=1e-4)


def test_diversity_of_equal_pictures_is_none_and_of_black_and_white_all() -> None:
    diversity = METRICS[DIVERSITY].function
    black, white = (Shown(image(np.full((32, 32, 3), v, np.float32))) for v in (0, 1))
    assert diversity([black, black, black]) == 0
    assert diversity([black, white]) == 1
    assert diversity([black, black, white]) == pytest.approx(2 / 3)
    assert diversity([black]) is None


def test_the_reference_is_brought_to_the_pictures_shape() -> None:
    wide = np.concatenate([BASE * 0, BASE, BASE * 0], axis=1)
    assert value("ssim", BASE, wide) == pytest.approx(1, abs=1e-3)  # its middle
    assert value("histogram", smooth(1, 80), BASE) < 0.05  # another size


def test_without_a_reference_there_are_no_measures_against_one() -> None:
    found = measured(there().values(), Shown(image(BASE)))
    assert set(found) == {"grid", "sharpness", "saturation"}


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 16)])
def test_small_and_narrow_pictures_are_measured_as_far_as_that_goes(size: tuple[int, int]) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    found = measured(there().values(), Shown(picture, image(BASE)))
    assert {"histogram", "grid", "sharpness", "saturation"} <= set(found)
    assert all(np.isfinite(v) for v in found.values())


def test_what_lacks_its_package_is_left_out_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Metric, "missing", property(lambda metric: bool(metric.package)))
    said: list[str] = []
    assert {"ssim", "edges"}.isdisjoint(there(said.append))
    assert said == ["SSIM and Edge similarity are left out: python -m pip install scikit-image"]


def test_the_table_says_what_each_measure_is() -> None:
    assert all(name == metric.name and metric.label and metric.about.endswith(".") for name, metric in METRICS.items())
    assert len({metric.label for metric in METRICS.values()}) == len(METRICS)
    assert pixels.PATCH == 8 * 2  # Z-Image's autoencoder and its patches
