"""A reference image: opened from whatever a panel, a request or a command line gives, and sized to a token budget."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from .errors import ZvlError, shown
from .outside import open_regular, plain, reason
from .pictures.formats import from_open, upright_rgb

MAX_BYTES = 64 * 2**20
_WHITE, _BLACK = 255, 0


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


References = Reference | tuple[Reference, ...]  # one, or several that are read in this order


def in_order(references: References) -> tuple[Reference, ...]:
    """References that are read together."""
    return (references,) if isinstance(references, Reference) else references


@dataclass(frozen=True)
class Upload:
    """A file that a page's server has received and put into a folder of its own.

    Only the page makes one: what comes in a request is text, and text is never taken for a path.
    """

    path: str
    name: str = ""


def open_reference(source: Any, name: str = "", ground: int = _WHITE) -> Reference:
    """Open a reference from what a panel, a request or a command line gives.

    Args:
        source: An `Upload`, a PIL image, encoded bytes, or text: base64, with or without a `data:image/...;base64,`
            head. Text is never taken for a path or an address.
        ground: The grey under transparent parts.

    Raises:
        ZvlError: not a picture, too large, or damaged.
    """
    if isinstance(source, Reference):
        return source
    if isinstance(source, Upload):
        return open_file(source.path, source.name, ground)
    if isinstance(source, Image.Image):
        return reference_of(from_open(source, ground), name)
    if isinstance(source, str):
        return _from_bytes(_decode_base64(source), name, ground)
    if isinstance(source, (bytes, bytearray)):
        return _from_bytes(bytes(source), name, ground)
    raise ZvlError(
        f"Reference image: expected a picture, not {shown(source)}. Drop a picture into the panel, or send base64 text."
    )


def open_mask(source: Any) -> Reference:
    """As `open_reference`, of a mask: strokes on a layer of their own are on black, where nothing is painted."""
    try:
        return open_reference(source, ground=_BLACK)
    except ZvlError as error:
        raise ZvlError(str(error).replace("Reference image:", "Mask:", 1)) from error


def open_file(path: str | os.PathLike[str], name: str = "", ground: int = _WHITE) -> Reference:
    """Open a reference from a file the user named on the command line or put into the reference folder.

    Args:
        name: What to call it; default: the file's own name.
        ground: As for `open_reference`.

    Raises:
        ZvlError: as `open_reference`; or it can't be read, or is no file (a folder, a pipe, a device).
    """
    name = name or os.path.basename(path)
    try:
        with open_regular(os.fspath(path)) as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ZvlError(f"Reference image: {plain(path, length=160)} can't be read ({reason(error)}).") from error
    if len(data) > MAX_BYTES:
        raise ZvlError(f"Reference image: {plain(name)} is larger than {MAX_BYTES >> 20} MiB. Make it smaller first.")
    return reference_of(upright_rgb(data, ground), name)


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


def _from_bytes(data: bytes, name: str, ground: int) -> Reference:
    if len(data) > MAX_BYTES:
        raise ZvlError(
            f"Reference image: {len(data) >> 20} MiB are more than {MAX_BYTES >> 20}. Make the picture smaller first."
        )
    return reference_of(upright_rgb(data, ground), name)


def reference_of(rgb: Image.Image, name: str) -> Reference:
    """A picture in RGB as a reference, with the digest of its pixels."""
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()
    return Reference(rgb, digest, name)


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
