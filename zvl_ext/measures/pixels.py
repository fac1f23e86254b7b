"""Measures of pixels, with numpy alone. Pictures are float32 [height, width, 3], 0 to 1."""

from __future__ import annotations

import itertools

import numpy as np
from PIL import Image

PATCH = 16  # pixels to a side of the image model's patch: 8 to a latent, 2 × 2 latents to a row
BINS = 8  # of a colour
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_THUMB = 16
_COLOURS = 256  # pixels of a side that colours are counted on


def values_of(picture: Image.Image) -> np.ndarray:
    """A picture's pixels."""
    values: np.ndarray = np.asarray(picture.convert("RGB"), np.float32) / 255
    return values


def brightness(pixels: np.ndarray) -> np.ndarray:
    """[height, width], 0 to 1."""
    light: np.ndarray = pixels @ _LUMA
    return light


def histogram_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The Hellinger distance of two pictures' colour histograms, 0 to 1."""
    common = np.sqrt(_histogram(a) * _histogram(b)).sum()
    return float(np.sqrt(max(0.0, 1 - common)))


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Shares of BINS³ colours; a value between two bins counts for both, so that a small shift is a small distance."""
    flat = _smaller(pixels, _COLOURS).reshape(-1, 3).T * (BINS - 1)
    low = np.clip(flat.astype(np.intp), 0, BINS - 2)
    high = flat - low
    shares = np.stack([1 - high, high])  # [2, 3, pixels]
    counts = np.zeros(BINS**3)
    for r, g, b in itertools.product((0, 1), repeat=3):
        place = ((low[0] + r) * BINS + low[1] + g) * BINS + low[2] + b
        counts += np.bincount(place, shares[r, 0] * shares[g, 1] * shares[b, 2], BINS**3)
    shared: np.ndarray = counts / flat.shape[1]
    return shared


def _smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """A copy whose longer side has at most so many pixels, each the mean of those it stands for."""
    longer = max(pixels.shape[:2])
    if longer <= side:
        return pixels
    height, width = (max(1, round(each * side / longer)) for each in pixels.shape[:2])
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return values_of(picture.resize((width, height), Image.Resampling.BOX))


def grid_energy(pixels: np.ndarray, period: int = PATCH) -> float:
    """How strongly brightness steps come again every `period` pixels, along both sides, in 1/255.

    The size of a step from each column (row) to the next, as a mean over the other side, is a signal along the side; a
    grid puts energy into its spectrum at the harmonics of the period, where a picture's own edges have no more than
    between them. What is over the median of the neighbouring frequencies counts.
    """
    light = brightness(pixels) * 255
    return float(np.hypot(_peaks(np.abs(np.diff(light, axis=1)).mean(0), period),
                          _peaks(np.abs(np.diff(light, axis=0)).mean(1), period)))  # fmt: skip


def _peaks(steps: np.ndarray, period: int) -> float:
    """The root of the energy at the harmonics of a period, over their neighbours', in the signal's unit."""
    count = len(steps) // period  # whole periods, so that the harmonics are frequencies of the spectrum
    if count < 3:
        return 0.0
    signal = steps[: count * period]
    power = np.abs(np.fft.rfft(signal - signal.mean())) ** 2
    energy = 0.0
    beside = min(3, (count - 1) // 2)
    for place in range(count, len(power), count):
        near = [power[place + far] for k in range(1, beside + 1) for far in (-k, k) if place + far < len(power)]
        both = 1 if place == len(signal) / 2 else 2  # the other half of the spectrum
        energy += both * max(0.0, power[place] - 3 * float(np.median(near)))
    return float(np.sqrt(energy)) / len(signal)


def sharpness(pixels: np.ndarray) -> float:
    """The standard deviation of the brightness' Laplacian, in 1/255."""
    light = brightness(pixels) * 255
    if min(light.shape) < 3:
        return 0.0
    inner = light[1:-1, 1:-1]
    return float((light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:] - 4 * inner).std())


def saturation(pixels: np.ndarray) -> float:
    """Mean chroma, 0 to 1."""
    return float((pixels.max(2) - pixels.min(2)).mean())


def diversity(pictures: list[np.ndarray]) -> float:
    """The mean distance between two of several pictures, as RMS of their small copies, 0 to 1."""
    small = [_thumb(picture) for picture in pictures]
    return float(np.mean([np.sqrt(((a - b) ** 2).mean()) for a, b in itertools.combinations(small, 2)]))


def _thumb(pixels: np.ndarray) -> np.ndarray:
    picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
    return values_of(picture.resize((_THUMB, _THUMB), Image.Resampling.BOX))
