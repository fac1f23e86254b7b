"""The formats a reference may have, and how one is opened within a bounded time and memory.

A file chooses its own decoder, and decoders believe what a file says. So only decoders of pictures are asked, none that
runs other programs (EPS) or opens more files; the size is looked at before a pixel is decoded; what a header can make
long (directories, scans) is looked at before a decoder meets it; and Pillow's parsers get a file that ends endless
reading.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from ..errors import ZvlError
from ..outside import reason
from . import headers
from .colour import to_srgb

MAX_PIXELS = 64 * 10**6
SIGN = 32  # bytes that tell a format
MAX_ASPECT = 200  # Qwen3-VL's own image processor refuses more than that
# Larger pictures are halved when they are opened: the vision tower is shown 1 million pixels at most.
KEPT_PIXELS = 32 * 10**6
_READS = 400_000  # of a parser: a file of 64 MiB in pieces of 255 bytes, as GIF has them, needs no more
_VALUES = 2**17  # numbers of one TIFF entry: the strips of the highest picture are fewer
_SCANNED = 24 * MAX_PIXELS  # pixels, of all scans of a progressive JPEG together
_EXIF = 2**22  # bytes of all entries of its first directory


class Format(NamedTuple):
    """A format.

    Attributes:
        name: What people call it.
        sign: How a file of it begins, as far as Pillow tells by it.
        plugins: Modules that bring a decoder where Pillow has none, each with a function to call, or "".
        check: Raises ZvlError for bytes that a decoder had better not meet.
    """

    name: str
    sign: bytes
    plugins: tuple[tuple[str, str], ...] = ()
    check: Callable[[bytes], None] = lambda data: None


def _check_tiff(data: bytes) -> None:
    """Lists of millions of numbers, entries that share their bytes, tiles beyond the picture."""
    for big in {43 in data[2:4], False}:
        total, tile = 0, {322: 1, 323: 1}  # width and height of a tile
        try:
            for entry in headers.directory(data, big):
                total += entry.size
                if entry.kind not in (1, 2, 7) and entry.values > _VALUES:
                    raise ValueError("an entry is too long")
                if entry.tag in tile:
                    tile[entry.tag] = entry.value
        except ValueError as error:
            raise _too_slow("TIFF") from error
        if total > len(data) + _EXIF or tile[322] * tile[323] > MAX_PIXELS // 4:
            raise _too_slow("TIFF")


def _check_jxl(data: bytes) -> None:
    """Its decoder makes all pixels as soon as it is opened."""
    check_size(headers.jxl_size(data))


_HEIF = b"\0\0\0\x18ftyp%s\0\0\0\0mif1%s"
# By Pillow's names.
FORMATS = {
    "PNG": Format("PNG", b"\x89PNG\r\n\x1a\n"),
    "JPEG": Format("JPEG", b"\xff\xd8\xff"),
    "WEBP": Format("WebP", b"RIFF\0\0\0\0WEBPVP8 "),
    "GIF": Format("GIF", b"GIF89a"),
    "BMP": Format("BMP", b"BM"),
    "TIFF": Format("TIFF", b"II*\0", check=_check_tiff),
    "AVIF": Format("AVIF", _HEIF % (b"avif", b"avif"), (("pillow_avif", ""), ("pillow_heif", "register_avif_opener"))),
    "HEIF": Format("HEIC", _HEIF % (b"heic", b"heic"), (("pillow_heif", "register_heif_opener"),)),
    "JXL": Format("JPEG XL", b"\xff\x0a", (("pillow_jxl", ""), ("jxlpy.JXLImagePlugin", "")), _check_jxl),
}
_JPEG = {"JPEG", "MPO"}  # MPO has further pictures behind the first


# --- what can be read here


def readable() -> str:
    """The formats that can be read here, as a list in words."""
    _load_decoders()
    *names, last = [form.name for key, form in FORMATS.items() if _takes(key, form.sign)]
    return f"{', '.join(names)} or {last}"


def may_be_picture(start: bytes) -> bool:
    """Whether a file whose first SIGN bytes are these has a format that can be read here."""
    _load_decoders()
    return any(_takes(key, start) for key in FORMATS)


@functools.cache
def _load_decoders() -> None:
    """Pillow's own, and those of libraries that are installed."""
    Image.init()
    for key, form in FORMATS.items():
        for module, register in form.plugins:
            if not _takes(key, form.sign):
                with contextlib.suppress(Exception):  # not there, or not of this system
                    plugin = importlib.import_module(module)
                    if register:
                        getattr(plugin, register)()


def _takes(key: str, start: bytes) -> bool:
    accept = Image.OPEN[key][1] if key in Image.OPEN else None
    # Text instead of True says that this Pillow was built without the decoder.
    taken = accept(start[:SIGN]) if accept is not None else False
    return bool(taken) and not isinstance(taken, str)


# --- opening

_ONE = threading.Lock()  # two large pictures at a time would take twice the memory


def upright_rgb(data: bytes, ground: int = 255) -> Image.Image:
    """The picture that a person sees: the first frame, upright, sRGB, 8 bits, on white or another grey, without
    metadata.

    More than KEPT_PIXELS are halved in width and height.

    Raises:
        ZvlError: it is none, too large, would take too long, or is damaged.
    """

    def opened() -> Image.Image:
        _load_decoders()
        keys = [key for key in FORMATS if _takes(key, data[:SIGN])]
        if not keys:
            raise _unreadable()
        for key in keys:
            FORMATS[key].check(data)
        with Image.open(_Counted(data), formats=keys) as image:  # the header
            check_size(image.size)
            if image.format in _JPEG and headers.jpeg_scans(data) * image.width * image.height > _SCANNED:
                raise _too_slow("JPEG")
            return _shown(image, ground)

    with _ONE:
        return _guarded(opened)


def from_open(image: Image.Image, ground: int = 255) -> Image.Image:
    """As `upright_rgb`, of a picture that is open already; one that comes from a file obeys the same formats."""

    def opened() -> Image.Image:
        if image.format is not None and image.format not in FORMATS.keys() | _JPEG:
            raise _unreadable()
        if image.tell():
            image.seek(0)
        check_size(image.size)
        return _shown(image, ground)

    return _guarded(opened)


def _shown(image: Image.Image, ground: int) -> Image.Image:
    shrink = 2 if image.width * image.height > KEPT_PIXELS else 1
    whole = image.size
    if shrink > 1 and image.format in _JPEG:
        image.draft("", (whole[0] // 2, whole[1] // 2))  # its decoder halves by itself, and makes no more pixels
    if isinstance(image.info.get("exif"), bytes) and not _harmless(image.info["exif"]):
        del image.info["exif"]
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    made = to_srgb(image, shrink if image.size == whole else 1, ground)
    return made if turn is None else made.transpose(turn)


def check_size(size: tuple[int, int]) -> None:
    """Raises ZvlError for a picture of too many pixels, or of none, or too narrow."""
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


class _Counted(io.BytesIO):
    """Ends a parser that goes on and on: millions of chunks, blocks, markers, directories."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self._reads, self._bytes = _READS, 4 * len(data) + _EXIF

    def read(self, size: int | None = -1, /) -> bytes:
        read = super().read(size)
        self._reads -= 1
        self._bytes -= len(read)
        if min(self._reads, self._bytes) < 0:
            raise _too_slow("file")
        return read


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


def _orientation(image: Image.Image) -> Any:
    """As EXIF says; EXIF that can't be read turns nothing, as in a browser."""
    if image.format == "JXL":  # there the picture itself says it, and its decoder has turned it
        return 1
    with contextlib.suppress(ZvlError, SyntaxError, ValueError, TypeError, KeyError, OverflowError, OSError):
        orientation = image.getexif().get(0x0112, 1)
        return orientation if isinstance(orientation, int) else 1
    return 1


def _harmless(exif: bytes) -> bool:
    """Pillow reads all entries of the first directory, and they may be a million times the same bytes."""
    try:
        sizes = [entry.size for entry in headers.directory(exif.removeprefix(b"Exif\0\0"))]
    except ValueError:
        return False
    return sum(sizes) <= _EXIF


# --- what is said


def _too_slow(what: str) -> ZvlError:
    return ZvlError(f"Reference image: this {what} is made so that reading it takes too long. Save it as PNG first.")


def _unreadable() -> ZvlError:
    return ZvlError(f"Reference image: this is not a picture I can read. Use {readable()}.")


def _guarded(work: Callable[[], Image.Image]) -> Image.Image:
    """Whatever a decoder raises on a damaged file becomes one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's own, lower limits, and of what it repairs
            return work()
    except (ZvlError, KeyboardInterrupt, SystemExit):
        raise
    except Image.DecompressionBombError as error:
        raise ZvlError(
            f"Reference image: more than {MAX_PIXELS // 10**6} million pixels. Make it smaller first."
        ) from error
    except UnidentifiedImageError as error:
        raise _unreadable() from error
    except MemoryError as error:
        raise ZvlError("Reference image: there is not enough memory to open it. Make it smaller first.") from error
    except BaseException as error:  # a decoder in Rust panics with one that is no Exception
        raise ZvlError(
            f"Reference image: the file is damaged ({reason(error)}). Save it again from an image editor."
        ) from error
