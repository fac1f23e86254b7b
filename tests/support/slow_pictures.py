"""Pictures that are small as files, and made so that opening them takes long or much memory."""

import struct
import zlib

import tiny
from PIL import Image


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int = 8, kind: int = 2, interlaced: bool = False) -> bytes:
    """A whole PNG of one value."""
    row = 1 + width * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] * depth // 8
    pack, left, body = zlib.compressobj(9), row * height + 8 * height * interlaced, b""
    while left > 0:
        body += pack.compress(bytes(min(left, 2**20)))
        left -= 2**20
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced))
    palette = chunk(b"PLTE", bytes(768)) if kind == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", body + pack.flush()) + chunk(b"IEND", b"")


def _small(kind: str, **options) -> bytes:
    return tiny.encoded(Image.new("L", (4, 4), 90), kind, **options)


def png_chunks(count: int, kind: bytes = b"abCd", body: bytes = b"") -> bytes:
    data = _small("PNG")
    return data[:33] + chunk(kind, body) * count + data[33:]


def png_exif(count: int) -> bytes:
    """An orientation of millions of values."""
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 3, count, 26) + bytes(4 + 2 * count)
    data = _small("PNG")
    return data[:33] + chunk(b"eXIf", exif) + data[33:]


def jpeg_markers(count: int) -> bytes:
    data = _small("JPEG")
    return data[:2] + b"\xff\xe5\0\2" * count + data[2:]


def jpeg_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = tiny.encoded(Image.new("RGB", (side, side), (90, 80, 70)), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


_GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
_FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0"


def gif_frames(count: int) -> bytes:
    return _GIF + _FRAME * count + b";"


def gif_comment(blocks: int) -> bytes:
    return _GIF + b"\x21\xfe" + b"\1a" * blocks + b"\0" + _FRAME + b";"


def tiff_directories(count: int) -> bytes:
    """Each names the next."""
    data = bytearray(_small("TIFF"))
    (at,) = struct.unpack_from("<I", data, 4)
    end = at + 2 + 12 * struct.unpack_from("<H", data, at)[0]
    entries = bytes(data[at:end])
    data[end : end + 4] = struct.pack("<I", len(data))
    for i in range(count):
        following = len(data) + len(entries) + 4
        data += entries + struct.pack("<I", following if i < count - 1 else 0)
    return bytes(data)


def tiff_with(*added: tuple[int, int, int, int], tail: int = 0, order: str = "<") -> bytes:
    """A TIFF with entries (tag, type, count, value) in place of its own ones of the same tags, and zeros behind."""
    data = _small("TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    own = [struct.unpack_from("<HHII", data, at + 2 + 12 * i) for i in range(*struct.unpack_from("<H", data, at))]
    entries = sorted({entry[0]: entry for entry in (*own, *added)}.values())
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory + bytes(4 + tail)


def tiff_strips(count: int) -> bytes:
    return tiff_with((273, 4, count, 8), (279, 4, count, 8), tail=4 * count)


def tiff_shared(entries: int, size: int) -> bytes:
    """Entries that are all the same bytes."""
    return tiff_with(*((40000 + i, 7, size, 8) for i in range(entries)), tail=size)


def tiff_tile(side: int) -> bytes:
    return tiff_with((322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, 16))


# Name -> what makes it, and whether it is a picture all the same.
SLOW = {
    "millions of PNG chunks": (lambda: png_chunks(5_000_000), False),
    "millions of empty parts of a PNG": (lambda: png_chunks(5_000_000, b"IDAT"), False),
    "an orientation of millions of values": (lambda: png_exif(30_000_000), True),
    "millions of JPEG markers": (lambda: jpeg_markers(15_000_000), False),
    "a thousand scans of a JPEG": (lambda: jpeg_scans(4000, 1000), False),
    "millions of GIF frames": (lambda: gif_frames(4_000_000), True),
    "a GIF comment of millions of blocks": (lambda: gif_comment(30_000_000), False),
    "a chain of TIFF directories": (lambda: tiff_directories(20_000), True),
    "millions of TIFF strips": (lambda: tiff_strips(8_000_000), False),
    "TIFF entries that share their bytes": (lambda: tiff_shared(60, 2**24), False),
    "a TIFF entry of millions of fractions": (lambda: tiff_with((40000, 5, 8_000_000, 8), tail=2**26 - 2**10), False),
    "a TIFF tile beyond the picture": (lambda: tiff_tile(2**16), False),
}
