"""Generated references: pictures that are damaged, and files put together of parts of pictures."""

from __future__ import annotations

import base64
import io
import struct
import time

import hypothesis
import slow_pictures
import tiny
from bounds import SECONDS, bounded, generated
from hypothesis import strategies as st
from PIL import Image

from zvl_ext.errors import ZvlError
from zvl_ext.pictures.formats import MAX_PIXELS
from zvl_ext.reference import open_reference

_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB", "YCbCr", "HSV")


def _wholes() -> list[bytes]:
    """Small pictures of every format and mode that there is a writer for."""
    made = []
    for kind in _KINDS:
        for mode in _MODES:
            image = (
                Image.new(mode, (24, 16)) if mode in ("I;16", "F", "LAB", "HSV") else tiny.picture(24, 16).convert(mode)
            )
            for options in ({}, {"compression": "tiff_lzw"} if kind == "TIFF" else {"progressive": True}):
                exif = {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}
                out = io.BytesIO()
                try:
                    image.save(out, kind, **options, **({} if kind in ("GIF", "BMP", "TIFF") else exif))
                except (OSError, ValueError, KeyError, SystemError):
                    continue
                made.append(out.getvalue())
    return made


WHOLE = _wholes()
NUMBERS = st.sampled_from([0, 1, 2, 5, 127, 128, 255, 256, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A picture with numbers put over it, cut, doubled, or with another one's end."""
    data = bytearray(draw(st.sampled_from(WHOLE)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, min(len(data) - 1, draw(st.sampled_from([40, 200, 10**6])))))
        form = draw(st.sampled_from(["B", "<H", ">H", "<I", ">I"]))
        number = struct.pack(form, draw(NUMBERS) % 256 ** struct.calcsize(form))
        data[at : at + len(number)] = number
    match draw(st.sampled_from(["", "", "", "cut", "double", "graft"])):
        case "cut":
            del data[draw(st.integers(0, len(data))) :]
        case "double":
            data += data[draw(st.integers(0, len(data))) :]
        case "graft":
            other = draw(st.sampled_from(WHOLE))
            data[draw(st.integers(0, len(data))) :] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


tiffs = st.lists(
    st.tuples(st.sampled_from([*range(254, 340), 700, 34675, 40000]), st.integers(0, 18), NUMBERS, NUMBERS), max_size=12
).map(lambda added: slow_pictures.tiff_with(*added, tail=4096))
pngs = st.lists(
    st.tuples(
        st.sampled_from(b"IHDR IDAT PLTE tRNS iCCP eXIf tEXt zTXt iTXt acTL fcTL fdAT gAMA cHRM IEND abCd".split()),
        st.binary(max_size=64),
    ), max_size=8,
).map(lambda parts: WHOLE[0][:33] + b"".join(slow_pictures.chunk(*part) for part in parts) + WHOLE[0][33:])  # fmt: skip


@hypothesis.given(st.one_of(damaged(), damaged(), tiffs, pngs, st.binary(max_size=200)))
@hypothesis.example(slow_pictures.tiff_tile(2**16))
@hypothesis.example(slow_pictures.tiff_strips(2**18))
@hypothesis.example(slow_pictures.png_exif(2**16))
@generated(300)
def test_a_file_is_a_picture_or_one_line_within_time_and_memory(data: bytes) -> None:
    began = time.monotonic()
    with bounded():
        try:
            opened = open_reference(data)
        except ZvlError as error:
            line = str(error)
            assert line.startswith("Reference image: ")
            assert len(line) <= 300
            assert len(line.splitlines()) == 1
        else:
            assert opened.image.mode == "RGB"
            assert 0 < opened.image.width * opened.image.height <= MAX_PIXELS
            assert open_reference(base64.b64encode(data).decode()).digest == opened.digest
    assert time.monotonic() - began < SECONDS, "an alarm inside a decoder reads as a damaged file"


NO_PICTURES = st.one_of(
    st.text(max_size=80), st.none(), st.integers(), st.floats(), st.booleans(), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)  # fmt: skip


@hypothesis.given(NO_PICTURES)
@generated(60)
def test_what_is_no_picture_is_one_line(value: object) -> None:
    with bounded():
        try:
            open_reference(value)
        except ZvlError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert len(str(error)) <= 300  # noqa: PT017
        else:
            raise AssertionError(f"{value!r} is no picture")
