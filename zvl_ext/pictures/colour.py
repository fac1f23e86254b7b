"""Any picture to what a screen shows: sRGB, 8 bits, on white."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

_BAND = 2**21  # pixels that are converted at a time: what is made on the way stays small
_LONGEST_PROFILE = 2**23  # bytes; those of printers have up to 3 MiB
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}  # mode -> the colour space a profile of it is for
_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
_DEEP = ("I", "F")  # beside I;16, I;16B, ...


def to_srgb(image: Image.Image, shrink: int = 1, ground: int = 255) -> Image.Image:
    """RGB of any mode, without metadata.

    An ICC profile is followed, where it is whole and meant for the mode. 16 bits are scaled to 8 (Pillow would clip).
    Floating point: 1 is white and what is over it is a highlight, white as well; see `_white` for other scales. NaN is
    black. Transparent parts show the ground.

    Args:
        shrink: The mean of so many times so many pixels becomes one.
        ground: A grey: 255 is white.
    """
    if shrink > 1 and image.mode in _SPACES.keys() | {"LAB"} and "transparency" not in image.info:
        image, shrink = image.reduce(shrink), 1  # fewer to convert
    width, height = image.size
    if "P" in image.mode:  # once, because a band of a palette picture is no smaller than its palette
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    convert = _conversion(image, ground)
    made = Image.new("RGB", (-(-width // shrink), -(-height // shrink)))
    rows = max(_BAND // width // shrink, 1) * shrink
    for top in range(0, height, rows):
        band = convert(image.crop((0, top, width, min(top + rows, height))))
        made.paste(band.reduce(shrink) if shrink > 1 else band, (0, top // shrink))
    return made


def _conversion(image: Image.Image, ground: int) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of a part of this picture."""
    transparent = image.mode in _TRANSPARENT or "transparency" in image.info
    profiled = _profiled(image)
    white = _white(image)

    def convert(part: Image.Image) -> Image.Image:
        if white:
            part = _eight_bits(part, white)
        elif transparent:
            part = part.convert("RGBA")
            if profiled is not _plain:
                alpha = part.getchannel("A")
                part = profiled(part.convert("RGB"))
                part.putalpha(alpha)
            below = Image.new("RGBA", part.size, (ground, ground, ground, 255))
            return Image.alpha_composite(below, part).convert("RGB")
        return profiled(part)

    return convert


# --- numbers of more than 8 bits


def _white(image: Image.Image) -> float:
    """The value that is white, of modes with more than 8 bits; 0 for the others.

    The brightest value does not tell it in floating point, because highlights go far over 1. But where half of a
    picture is over 16, that would be four stops over white: those are numbers as of 8 bits, or of 16.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        return 65535.0
    if image.mode != "F":
        return 0.0
    step = max(1, max(image.size) // 1024)
    values = np.asarray(image)[::step, ::step]
    values = values[np.isfinite(values)]
    middle = float(np.median(values)) if values.size else 0.0
    return 1.0 if middle <= 16 else 255.0 if middle <= 255 else 65535.0


def _eight_bits(image: Image.Image, white: float) -> Image.Image:
    values = np.nan_to_num(np.asarray(image).astype(np.float32) / white, nan=0.0, posinf=1.0, neginf=0.0)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


# --- profiles


def _profiled(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes sRGB of a part as the picture's profile says; plain RGB where there is none to follow."""
    mode = "L" if image.mode.startswith("I;16") or image.mode in (*_DEEP, "LA", "La", "1") else image.mode
    mode = mode if mode in (*_SPACES, "LAB") else "RGB"
    profile = image.info.get("icc_profile")
    if not (isinstance(profile, bytes) and 0 < len(profile) <= _LONGEST_PROFILE) and mode != "LAB":
        return _plain
    try:
        from PIL import ImageCms

        if mode == "LAB":  # the values say it all, whatever profile lies beside them
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
            if source.profile.xcolor_space != _SPACES[mode]:
                if mode != "L" or source.profile.xcolor_space != "RGB ":
                    return _plain
                mode = "RGB"  # a picture in grey with a screen's profile
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode == "RGB" and _changes_nothing(transform):
            return _plain
    except Exception:  # noqa: BLE001  a broken profile, or a Pillow without colour management: as without a profile
        return _plain

    def profiled(part: Image.Image) -> Image.Image:
        return transform.apply(part if part.mode == mode else part.convert(mode))

    return profiled


def _plain(part: Image.Image) -> Image.Image:
    return part.convert("RGB")


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether a profile is sRGB under another name, as most are: then no value is rounded a second time."""
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    changed = np.asarray(transform.apply(Image.fromarray(colours))).astype(int)
    return bool(np.abs(changed - colours).max() <= 1)
