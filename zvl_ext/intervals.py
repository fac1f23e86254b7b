"""Means with their intervals: how sure a measurement is."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 1000
LEVEL = 0.95

Interval = tuple[float, float, float]  # the mean, and the ends of its interval


@functools.lru_cache(maxsize=8)
def resamples(count: int, times: int = RESAMPLES) -> np.ndarray:
    """Things drawn with replacement, by number, [times, count]; always the same."""
    import numpy as np

    return np.random.default_rng(0).integers(count, size=(times, count))


def bootstrap(values: np.ndarray, times: int = RESAMPLES) -> Interval:
    """The mean and its 95 % interval: percentiles of the means of resampled values.

    After Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        values: One number for each thing that was measured. The same resamples are used for every array of that length.
    """
    import numpy as np

    values = np.asarray(values, np.float64)
    means = values[resamples(len(values), times)].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(values.mean()), float(low), float(high)


def sign(interval: Interval) -> int:
    """1 or -1 where the interval lies on one side of zero ("clearly"), otherwise 0."""
    return int(interval[1] > 0) - int(interval[2] < 0)
