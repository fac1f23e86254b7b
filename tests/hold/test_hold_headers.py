"""Headers of weights of any content, safetensors and GGUF: read, or refused in one line, within bounds."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tempfile
from pathlib import Path

import pytest
import tiny
import torch
from bounds import bounded, generated
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from zvl_ext.errors import ZvlError
from zvl_ext.qwen3vl import gguf_header, notes, safetensors_header
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.pieces import Pieces

ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NUMBER = st.integers(0, 300) | st.integers(-(2**70), 2**70) | ANY
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "I8", "Q4_K", "F4", ""]) | ANY,
        "shape": st.lists(NUMBER, max_size=5) | ANY,
        "data_offsets": st.lists(NUMBER, min_size=2, max_size=2) | ANY,
    },
)
NAME = st.sampled_from(
    [
        "visual.patch_embed.proj.weight",
        "visual.blocks.999999999999.norm1.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.up_proj.comfy_quant",
        "model.embed_tokens.weight",
        "__metadata__",
    ]
)


def _read(reader, data: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{ending}"
        path.write_bytes(data)
        with Pieces(str(path), "x") as file, contextlib.suppress(ValueError):
            reader(file)
        with bounded(), pytest.raises(ZvlError) as refused:
            open_checkpoint(str(path))
    assert len(str(refused.value).splitlines()) == 1


@generated(40)
@given(st.dictionaries(NAME | st.text(max_size=20), TENSOR | ANY, max_size=4), st.integers(0, 400))
@example({"visual.pos_embed.weight": {"dtype": "F4", "shape": [10**9] * 9, "data_offsets": [0, 8]}}, 8)
def test_a_safetensors_header_of_any_content(header, size):
    text = json.dumps(header).encode()
    _read(safetensors_header.read_header, struct.pack("<Q", len(text)) + text + b"\0" * size, ".safetensors")


@generated(40)
@given(st.binary(max_size=200))
@example(struct.pack("<Q", 50_000) + b"[" * 50_000)
@example(struct.pack("<Q", 2**63))
@example(struct.pack("<Q", 5010) + b'{"a":' + b"1" * 5004 + b"}")
def test_safetensors_bytes_of_any_content(data):
    _read(safetensors_header.read_header, data, ".safetensors")


@generated(60)
@given(
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, 3, 2**20, 2**64 - 1]),
    st.sampled_from([0, 1, 2, 3, 2**20, 2**64 - 1]),
    st.lists(st.binary(max_size=12) | st.integers(0, 2**64 - 1) | st.integers(0, 12), max_size=12),
)
def test_a_gguf_header_of_any_content(version, tensors, entries, values):
    data = io.BytesIO()
    data.write(b"GGUF" + struct.pack("<IQQ", version, tensors, entries))
    for value in values:
        if isinstance(value, bytes):
            data.write(struct.pack("<Q", len(value)) + value)
        else:
            data.write(struct.pack("<I" if value < 13 else "<Q", value))
    _read(gguf_header.read_header, data.getvalue() + b"\0" * 64, ".gguf")


@generated(60)
@given(
    ANY
    | st.fixed_dictionaries(
        {"format": st.sampled_from(["int8_tensorwise", "float8_e4m3fn", "int8_convrot", "nvfp4"]) | ANY},
        optional={"convrot": ANY, "convrot_groupsize": NUMBER, "group_size": NUMBER, "params": ANY},
    )
)
def test_a_note_of_any_content_is_understood_or_not(said):
    note = notes.understood(said)
    assert note.problem or (note.format and 0 <= note.group < 2**20)
    assert note.rotation == 0 or notes.is_group(note.rotation)
    parsed = notes.parse(json.dumps(said).encode())
    assert parsed == note or parsed.problem


WHOLE = save({"model." + name: torch.zeros(3) for name in ("visual.pos_embed.weight", "embed_tokens.weight")})


@generated(60)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at, byte):
    _read(safetensors_header.read_header, WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :], ".safetensors")


def test_the_generators_reach_what_they_are_for():
    """A header of this kind is read."""
    assert notes.parse(bytes(tiny.as_bytes({"format": "int8_tensorwise", "convrot": True}).tolist())).rotation == 256
