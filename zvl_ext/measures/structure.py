"""Measures of structure, with scikit-image, an optional package. Pictures are float32 [height, width, 3], 0 to 1."""

from __future__ import annotations

import numpy as np

from .pixels import brightness

_WINDOW = 7  # of SSIM, pixels
_SOFT = 1.5  # pixels over which edges are smoothed: one that lies a pixel beside another is nearly the same


def ssim(picture: np.ndarray, reference: np.ndarray) -> float | None:
    """Structural similarity, after Wang et al., IEEE TIP 13 (2004)."""
    from skimage.metrics import structural_similarity

    if min(picture.shape[:2]) < _WINDOW:
        return None
    return float(structural_similarity(picture, reference, win_size=_WINDOW, channel_axis=2, data_range=1.0))


def edge_similarity(picture: np.ndarray, reference: np.ndarray) -> float:
    """The correlation of two pictures' edges; 0 where one of them has none."""
    a, b = (_edges(each) for each in (picture, reference))
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 1e-9 else 0.0


def _edges(pixels: np.ndarray) -> np.ndarray:
    from skimage.filters import gaussian, sobel

    edges: np.ndarray = gaussian(sobel(brightness(pixels)), _SOFT)
    return edges
