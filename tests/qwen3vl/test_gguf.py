"""GGUF files as llama.cpp writes them: the vision tower (`mmproj`), the language model beside it, what is neither."""

from __future__ import annotations

import copy
import struct
import sys

import numpy as np
import pytest
import tiny
import torch
from tiny import ggufs
from weights import assert_same_weights, every_weight

from zvl_ext.qwen3vl import ggml, vision
from zvl_ext.qwen3vl.files import open_checkpoint
from zvl_ext.qwen3vl.forms import FORMS
from zvl_ext.qwen3vl.language import load

gguf = pytest.importorskip("gguf")


@pytest.fixture
def pair(state, model, tmp_path):
    """Writes both files; returns the language model's path and what the two mean."""

    def write(language: str = "Q8_0", tower: str = "F16"):
        meant = ggufs.save_language(state, model.config, tmp_path / f"Tiny-{language}.gguf", language)
        meant |= ggufs.save_mmproj(state, model.config, tmp_path / f"mmproj-Tiny-{tower}.gguf", tower)
        assert meant.keys() == state.keys()
        return tmp_path / f"Tiny-{language}.gguf", meant

    return write


@pytest.mark.parametrize(
    ("language", "tower"),
    [
        ("F32", "F32"),
        ("F16", "F16"),
        ("BF16", "BF16"),
        ("Q8_0", "Q8_0"),
        ("Q4_0", "F16"),
        ("Q4_1", "Q8_0"),
        ("Q5_0", "F16"),
    ],
)
def test_both_files_are_one_model(language, tower, pair, state):
    path, meant = pair(language, tower)
    checkpoint = open_checkpoint(str(path))
    loaded = load(checkpoint, torch.float32)
    weights = every_weight(loaded, torch.float32)
    assert_same_weights({name: value.float() for name, value in weights.items()}, meant)
    for name, value in meant.items():
        assert (value - state[name]).norm() <= 0.1 * state[name].norm(), name
    ids = torch.tensor([3, 511, 3, 0])
    assert torch.equal(loaded.embedding(ids).float(), meant["language_model.embed_tokens.weight"][ids])


def test_its_header_tells_the_configuration_beyond_the_shapes(irregular, tmp_path):
    """Vision heads, MRoPE's sections, theta and DeepStack's layers are not what published models have."""
    config = copy.deepcopy(irregular.config)
    config.vision_config.deepstack_visual_indexes = [0, 1, 3]
    state = tiny.inner_state(irregular)
    ggufs.save_language(state, config, tmp_path / "lm.gguf")
    ggufs.save_mmproj(state, config, tmp_path / "mmproj.gguf")
    found = open_checkpoint(str(tmp_path / "lm.gguf")).config
    assert found["vision_config"]["num_heads"] == 4
    assert found["vision_config"]["deepstack_visual_indexes"] == [0, 1, 3]
    assert found["text_config"]["rope_theta"] == 1e4
    assert found["text_config"]["rope_parameters"]["mrope_section"] == [4, 2, 2]
    assert found["text_config"]["rms_norm_eps"] == pytest.approx(1e-6)


@pytest.mark.parametrize("kind", ["F16", "F32", "Q8_0"])
def test_a_vision_tower_alone_serves_engine_splice(kind, state, model, tmp_path, refused):
    meant = ggufs.save_mmproj(state, model.config, tmp_path / "mmproj.gguf", kind)
    checkpoint = open_checkpoint(str(tmp_path / "mmproj.gguf"))
    tower = vision.load(checkpoint, torch.float32)
    assert_same_weights(
        dict(tower.named_parameters()), {n.removeprefix("visual."): v.float() for n, v in meant.items()}
    )
    with refused(r"^mmproj\.gguf has no language model: it serves engine splice\. For engine blend get qwen3vl_4b"):
        checkpoint.check_layer(-2)


def test_a_language_model_without_its_vision_tower_is_refused(state, model, tmp_path, refused):
    ggufs.save_language(state, model.config, tmp_path / "lm.gguf")
    with refused(r"lm\.gguf.*mmproj"):
        open_checkpoint(str(tmp_path / "lm.gguf"))


def test_without_the_package_one_line_says_what_to_install(pair, monkeypatch, refused):
    path, _ = pair()
    monkeypatch.setitem(sys.modules, "gguf", None)
    for each in (path, path.with_name("mmproj-Tiny-F16.gguf")):
        with refused("GGUF files need the Python package gguf.*python -m pip install gguf"):
            open_checkpoint(str(each))


@pytest.mark.parametrize("architecture", ["qwen2vl", "qwen3", "llama", "clip"])
def test_another_models_file_is_refused(architecture, tmp_path, refused):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    ggufs._finish(writer)
    with refused(r"x\.gguf is not a Qwen3-VL"):
        open_checkpoint(str(tmp_path / "x.gguf"))


# --- numbers, by the definitions in ggml's source


def half(data: np.ndarray) -> np.ndarray:
    return data.copy().view(np.float16).astype(np.float64)


def q8_0(block: np.ndarray) -> np.ndarray:
    return half(block[:2]) * block[2:].view(np.int8)


def q4_0(block: np.ndarray) -> np.ndarray:
    low, high = (block[2:] & 15).astype(int), (block[2:] >> 4).astype(int)
    return half(block[:2]) * (np.concatenate([low, high]) - 8)


def _scales(packed: np.ndarray) -> tuple[list[int], list[int]]:
    """Eight scales and eight minima of six bits in twelve bytes."""
    scales, minima = [], []
    for j in range(8):
        if j < 4:
            scales.append(int(packed[j]) & 63)
            minima.append(int(packed[j + 4]) & 63)
        else:
            scales.append((int(packed[j + 4]) & 15) | ((int(packed[j - 4]) >> 6) << 4))
            minima.append((int(packed[j + 4]) >> 4) | ((int(packed[j]) >> 6) << 4))
    return scales, minima


def q4_k(block: np.ndarray) -> np.ndarray:
    d, least = half(block[:4])
    scales, minima = _scales(block[4:16])
    out = []
    for chunk in range(4):
        part = block[16 + 32 * chunk : 48 + 32 * chunk].astype(int)
        for shift, j in ((0, 2 * chunk), (4, 2 * chunk + 1)):
            out += list(d * scales[j] * ((part >> shift) & 15) - least * minima[j])
    return np.array(out)


def q5_k(block: np.ndarray) -> np.ndarray:
    d, least = half(block[:4])
    scales, minima = _scales(block[4:16])
    fifth, out = block[16:48].astype(int), []
    for chunk in range(4):
        part = block[48 + 32 * chunk : 80 + 32 * chunk].astype(int)
        for shift, j in ((0, 2 * chunk), (4, 2 * chunk + 1)):
            number = ((part >> shift) & 15) + 16 * ((fifth >> j) & 1)
            out += list(d * scales[j] * number - least * minima[j])
    return np.array(out)


def q6_k(block: np.ndarray) -> np.ndarray:
    low, high, scales, (d,) = block[:128], block[128:192], block[192:208].view(np.int8), half(block[208:])
    out = np.empty(256)
    for n in range(2):
        for at in range(32):
            bits = int(high[32 * n + at])
            for quarter in range(4):
                nibble = int(low[64 * n + at + 32 * (quarter % 2)]) >> (4 * (quarter // 2)) & 15
                number = (nibble | ((bits >> 2 * quarter) & 3) << 4) - 32
                place = 128 * n + 32 * quarter + at
                out[place] = d * int(scales[place // 16]) * number
    return out


@pytest.mark.parametrize(
    ("form", "defined", "halves"),
    [
        ("Q8_0", q8_0, slice(0, 2)),
        ("Q4_0", q4_0, slice(0, 2)),
        ("Q4_K", q4_k, slice(0, 4)),
        ("Q5_K", q5_k, slice(0, 4)),
        ("Q6_K", q6_k, slice(208, 210)),
    ],
)
def test_quantized_numbers_are_what_their_definition_says(form, defined, halves):
    count, size = ggml.BLOCKS[form]
    generator = np.random.default_rng(1)
    blocks = generator.integers(0, 256, (6, size), dtype=np.uint8)
    for block in blocks:
        block[halves] = generator.uniform(-2, 2, (halves.stop - halves.start) // 2).astype(np.float16).view(np.uint8)
    got = FORMS[form].values(torch.from_numpy(blocks.flatten()), (3, 2 * count))
    wanted = np.stack([defined(block) for block in blocks]).reshape(3, 2 * count)
    assert np.allclose(got.double().numpy(), wanted, rtol=1e-5, atol=1e-5)


def test_the_table_of_types_and_blocks_is_ggmls():
    for number, name in ggml.TYPES.items():
        assert gguf.GGMLQuantizationType[name] == number
        form = FORMS[name]
        assert (form.numbers, form.bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    for name in ggml.BLOCKS:
        assert name in ggml.TYPES.values()
        assert ggml.readable(name)


# --- damaged


def test_a_truncated_file_is_refused(pair, refused):
    path, _ = pair()
    for file in (path, path.with_name("mmproj-Tiny-F16.gguf")):
        data = file.read_bytes()
        for part in (0, 3, 4, 20, 60, 300, 2000, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:part])
            with refused(r"\.gguf"):
                open_checkpoint(str(file))
        file.write_bytes(data)
        open_checkpoint(str(file))


@pytest.mark.parametrize(
    "data",
    [
        b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 2**62),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q4sIIQ", 4, b"abcd", 9, 8, 2**62) + b"\0" * 4096,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q4sIIQ", 4, b"abcd", 9, 9, 2**62) + b"\0" * 4096,
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q4sIIQ", 4, b"abcd", 9, 0, 2**62) + b"\0" * 4096,
        b"GGUF" + struct.pack("<IQQ", 9, 0, 0),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        b"GGUF",
        b"\0" * 100,
    ],
)
def test_a_false_header_is_refused(data, tmp_path, refused):
    (tmp_path / "false.gguf").write_bytes(data)
    with refused(r"false\.gguf"):
        open_checkpoint(str(tmp_path / "false.gguf"))
