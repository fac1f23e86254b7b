"""What is measured of a picture. Each metric is one entry of METRICS; a web UI shows the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from . import pixels, structure

SIMILARITY, ADHERENCE, ARTIFACT = "similarity", "adherence", "artifact"
DIVERSITY = "diversity"


@dataclass(frozen=True)
class Shown:
    """A picture beside what it was made from.

    Attributes:
        picture: RGB.
        reference: RGB; None where there was none.
        prompt: What was asked for.
    """

    picture: Image.Image
    reference: Image.Image | None = None
    prompt: str = ""
    _found: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What several metrics are made of, found for the first one that asks."""
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]

    @cached_property
    def pixels(self) -> np.ndarray:
        """float32 [height, width, 3], 0 to 1."""
        return pixels.values_of(self.picture)

    @cached_property
    def reference_pixels(self) -> np.ndarray | None:
        """The middle of the reference in the picture's shape and size, as `pixels`."""
        if self.reference is None:
            return None
        return pixels.values_of(ImageOps.fit(self.reference, self.picture.size, Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        name: In files, and in the cells of an X/Y/Z plot.
        label: What people call it.
        about: What it is, in a sentence, with its unit and range.
        function: Of a `Shown`; None where it can't be said of this one. Of DIVERSITY: of a list of them.
        better: 1 where more is better, -1 where less is; 0 where it depends.
        role: Which side of the trade-off it measures.
        package: Which it needs besides what is there.
        identity: Of the weights that it measures with.
    """

    name: str
    label: str
    about: str
    function: Callable[..., float | None] = field(repr=False)
    better: int = 0
    role: str = ""
    package: str = ""
    identity: str = ""

    @property
    def missing(self) -> bool:
        """Whether its package is not there."""
        return bool(self.package) and importlib.util.find_spec(self.package) is None


def _beside(function: Callable[[np.ndarray, np.ndarray], float | None]) -> Callable[[Shown], float | None]:
    def measure(shown: Shown) -> float | None:
        there = shown.reference_pixels
        return None if there is None else function(shown.pixels, there)

    return measure


def _alone(function: Callable[[np.ndarray], float]) -> Callable[[Shown], float | None]:
    return lambda shown: function(shown.pixels)


def _several(shown: list[Shown]) -> float | None:
    return pixels.diversity([each.pixels for each in shown]) if len(shown) > 1 else None


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "histogram", "Colour distance", "Hellinger distance of the colour histograms (8³ bins) to the reference's: "
            "0 the same colours, 1 none in common.", _beside(pixels.histogram_distance), -1,
        ),
        Metric(
            "ssim", "SSIM", "Structural similarity to the reference (Wang et al., 2004): 1 the same, about 0 unlike.",
            _beside(structure.ssim), 1, SIMILARITY, "skimage",
        ),
        Metric(
            "edges", "Edge similarity", "Correlation of the edges (Sobel, smoothed) with the reference's: 1 the same, "
            "about 0 unlike.", _beside(structure.edge_similarity), 1, "", "skimage",
        ),
        Metric(
            "grid", "Grid energy", "Steps of brightness that come again with the image model's patch, every 16 pixels: "
            "their spectral peaks over what lies beside them, in 1/255.", _alone(pixels.grid_energy), -1, ARTIFACT,
        ),
        Metric(
            "sharpness", "Sharpness", "Spread of the brightness' Laplacian, in 1/255: 0 is flat.",
            _alone(pixels.sharpness),
        ),
        Metric(
            "saturation", "Saturation", "Mean chroma, the largest less the smallest of red, green and blue, 0 to 1; "
            "more than the plain pictures' is colour bleeding.", _alone(pixels.saturation),
        ),
        Metric(
            DIVERSITY, "Diversity", "Between the pictures of several seeds: the mean distance of their pixels (RMS of "
            "16 × 16 means), 0 to 1.", _several,
        ),
    )
}  # fmt: skip


def measured(metrics: Iterable[Metric], shown: Shown) -> dict[str, float]:
    """The values of one picture, by the metrics' names; without those that can't be said of it."""
    found = {metric.name: metric.function(shown) for metric in metrics if metric.name != DIVERSITY}
    return {name: round(float(value), 6) for name, value in found.items() if value is not None and np.isfinite(value)}


def there(say: Callable[[str], None] = lambda line: None) -> dict[str, Metric]:
    """The metrics whose packages are there; which are left out is said in one line."""
    out = [metric for metric in METRICS.values() if metric.missing]
    if out:
        names = " and ".join(metric.label for metric in out)
        say(f"{names} {'is' if len(out) == 1 else 'are'} left out: python -m pip install scikit-image")
    return {name: metric for name, metric in METRICS.items() if not metric.missing}


def opened(file: Any) -> Image.Image:
    """A picture as RGB."""
    with Image.open(file) as image:
        rgb: Image.Image = image.convert("RGB")
    return rgb
