"""A reference image: opened, checked, oriented, sized to a token budget."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import math
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import ZvlError

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 10**6
MAX_ASPECT = 200  # Qwen3-VL's own image processor refuses more than that
# Decoders of pictures only, and none that runs other programs (EPS) or reads many files: an upload chooses its own
# format.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Reference:
    """An opened reference image.

    Attributes:
        image: RGB, upright.
        digest: SHA-256 of size and pixels, hexadecimal: the same picture has the same digest however it came in.
        name: A file name to show, or "".
    """

    image: Image.Image = field(repr=False, compare=False)
    digest: str
    name: str = ""


def open_reference(source: Any, name: str = "") -> Reference:
    """Open a reference from what a panel, a request or a command line gives.

    Args:
        source: A PIL image, encoded bytes, or text: base64, with or without a `data:image/...;base64,` head. Text is
            never taken for a path or an address.

    Raises:
        ZvlError: not a picture, too large, or damaged.
    """
    if isinstance(source, Reference):
        return source
    if isinstance(source, Image.Image):
        return _guarded(lambda: _from_pil(source, name))
    if isinstance(source, str):
        return _from_bytes(_decode_base64(source), name)
    if isinstance(source, (bytes, bytearray)):
        return _from_bytes(bytes(source), name)
    raise ZvlError(
        f"Reference image: expected a picture, not {type(source).__name__}. Drop a picture into the panel, or send "
        "base64 text."
    )


def open_file(path: str | os.PathLike[str]) -> Reference:
    """Open a reference from a file the user named on the command line or put into the reference folder."""
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise ZvlError(
                f"Reference image: {os.path.basename(path)} is larger than {MAX_BYTES >> 20} MiB. Make it smaller "
                "first."
            )
        with open(path, "rb") as file:
            return _from_bytes(file.read(), os.path.basename(path))
    except OSError as error:
        raise ZvlError(f"Reference image: {path} can't be read ({error.strerror or error}).") from error


def _decode_base64(text: str) -> bytes:
    if re.match(r"\s*[a-z]+://", text[:64], re.IGNORECASE):
        raise ZvlError("Reference image: addresses are not fetched. Send the picture itself as base64 text.")
    if len(text) > MAX_BYTES * 4 / 3 + 1024:
        raise ZvlError(f"Reference image: more than {MAX_BYTES >> 20} MiB were sent. Make the picture smaller first.")
    head, comma, body = text.partition(",")
    try:
        return base64.b64decode(
            re.sub(r"\s+", "", body if comma and head.lstrip().startswith("data:") else text), validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise ZvlError(
            "Reference image: the text is not base64 of a picture. Send the encoded file's bytes, not a path."
        ) from error


def _from_bytes(data: bytes, name: str) -> Reference:
    if len(data) > MAX_BYTES:
        raise ZvlError(
            f"Reference image: {len(data) >> 20} MiB are more than {MAX_BYTES >> 20}. Make the picture smaller first."
        )
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]

    def opened() -> Reference:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, lower limits
            with Image.open(
                io.BytesIO(data), formats=formats
            ) as image:  # the header; _from_pil looks at the size before it decodes
                return _from_pil(image, name)

    return _guarded(opened)


def _guarded(work: Callable[[], Reference]) -> Reference:
    """Whatever a decoder raises on a damaged file becomes one line."""
    try:
        return work()
    except ZvlError:
        raise
    except Image.DecompressionBombError as error:
        raise ZvlError(
            f"Reference image: more than {MAX_PIXELS // 10**6} million pixels. Make it smaller first."
        ) from error
    except UnidentifiedImageError as error:
        raise ZvlError(
            "Reference image: this is not a picture I can read. Use PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from error
    except Exception as error:
        raise ZvlError(
            f"Reference image: the file is damaged ({error}). Save it again from an image editor."
        ) from error


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ZvlError(
            f"Reference image: {width} × {height} is more than {MAX_PIXELS // 10**6} million pixels. Make it smaller "
            "first."
        )
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        raise ZvlError(
            f"Reference image: {width} × {height} is too narrow; one side may be {MAX_ASPECT} times the other. Crop it "
            "first."
        )


def _from_pil(image: Image.Image, name: str) -> Reference:
    _check_size(image.size)
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    rgb = to_rgb(_upright(image))
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()
    return Reference(rgb, digest, name)


_T = Image.Transpose
# EXIF orientation -> what makes the picture upright. Pillow's exif_transpose writes all of EXIF anew and fails on odd
# tags.
_UPRIGHT = {
    2: _T.FLIP_LEFT_RIGHT,
    3: _T.ROTATE_180,
    4: _T.FLIP_TOP_BOTTOM,
    5: _T.TRANSPOSE,
    6: _T.ROTATE_270,
    7: _T.TRANSVERSE,
    8: _T.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    turn = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits per channel scaled to 8 (Pillow would clip), transparency laid on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        top = 65535.0 if image.mode != "F" else (1.0 if values.max(initial=0) <= 1 else 255.0)
        image = Image.fromarray((values / top * 255.0).round().clip(0, 255).astype(np.uint8), "L")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


def fitted_size(width: int, height: int, tokens: int, unit: int = 32) -> tuple[int, int]:
    """Width and height in pixels, multiples of `unit`, with at most `tokens` cells of unit × unit.

    The rule of Qwen-VL's image processor (`smart_resize`): round both sides to the unit, and shrink only what is over
    the budget. Small images stay small: enlarging them adds tokens without adding anything to see.

    >>> fitted_size(1024, 1024, 256)
    (512, 512)
    >>> fitted_size(96, 64, 256)
    (96, 64)
    """
    columns, rows = max(1, round(width / unit)), max(1, round(height / unit))
    if columns * rows > tokens:
        shrink = math.sqrt(width * height / (tokens * unit * unit))
        columns, rows = max(1, math.floor(width / shrink / unit)), max(1, math.floor(height / shrink / unit))
        # Very narrow images: the short side can't go below one cell, so the long one gives way.
        columns, rows = min(columns, max(1, tokens // rows)), min(rows, max(1, tokens // columns))
    return columns * unit, rows * unit


def sized(reference: Reference, tokens: int, unit: int = 32) -> Image.Image:
    """The reference at the size the vision tower will see: at most `tokens` cells of unit × unit pixels, bicubic."""
    size = fitted_size(*reference.image.size, tokens, unit)
    return reference.image if size == reference.image.size else reference.image.resize(size, Image.Resampling.BICUBIC)
