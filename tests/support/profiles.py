"""Colour profiles, written byte by byte (ICC.1:2001), and what Pillow's own colour management makes of them."""

import io
import struct

from PIL import Image, ImageCms

D50 = (0.9642, 1.0, 0.8249)


def _s15(x: float) -> bytes:
    return struct.pack(">i", round(x * 65536))


def _xyz(*values: float) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_s15, values))


def _gamma(value: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(value * 256))


def _profile(space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ ") -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"P\0" + bytes(78),
        b"wtpt": _xyz(*D50),
        b"cprt": b"text\0\0\0\0x\0\0\0",
        **tags,
    }
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQI", at + len(body), b"test", 0x02400000, kind, space, pcs, bytes(12), b"acsp", bytes(4),
        0, 0, 0, 0, 0,
    ) + b"".join(map(_s15, D50))  # fmt: skip
    return head.ljust(128, b"\0") + table + body


# ProPhoto RGB: primaries far outside of sRGB, gamma 1.8.
WIDE = _profile(b"RGB ", {
    b"rXYZ": _xyz(0.7977, 0.2880, 0.0), b"gXYZ": _xyz(0.1352, 0.7119, 0.0), b"bXYZ": _xyz(0.0313, 0.0001, 0.8249),
    b"rTRC": _gamma(1.8), b"gTRC": _gamma(1.8), b"bTRC": _gamma(1.8),
})  # fmt: skip
LINEAR_GREY = _profile(b"GRAY", {b"kTRC": _gamma(1.0)})


def _inks() -> bytes:
    """Four inks to Lab through a table of the corners: black paper without ink, so that it differs from Pillow's
    formula."""
    table = bytes(
        value for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1)
        for value in ((255 - 60 * (c + m + y)) * (1 - k) * 9 // 10, 128 + 50 * (m - c), 128 + 50 * (y - m))
    )  # fmt: skip
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + b"".join(_s15(i % 4 == 0) for i in range(9))
    return lut + bytes(range(256)) * 4 + table + bytes(range(256)) * 3


INKS = _profile(b"CMYK", {b"A2B0": _inks(), b"B2A0": _inks()}, b"prtr", b"Lab ")


def by_pillow(image: Image.Image, profile: bytes) -> Image.Image:
    """The same picture in sRGB."""
    embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, embedded, ImageCms.createProfile("sRGB"), outputMode="RGB")
