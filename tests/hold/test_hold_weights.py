"""Generated weights: headers, configurations, indices, tokenizers and folders of any content. Each is opened as what it
is, or refused in one short line; and what is opened loads."""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated

from zvl_ext.errors import ZvlError
from zvl_ext.qwen3vl.files import find, open_checkpoint
from zvl_ext.qwen3vl.language import load
from zvl_ext.qwen3vl.loading import blank, transformers_classes
from zvl_ext.qwen3vl.tokenizer import tokenizer as read_tokenizer

LONGEST = 420  # characters: what weights to get is told with real names


def told(work: Callable[[], Any]) -> Any:
    """What the work gives, None where it is refused; any other end, a hang or a flood is a failure."""
    try:
        with bounded():
            return work()
    except ZvlError as error:
        line = str(error)
        assert line.isprintable(), repr(line)
        assert 0 < len(line) <= LONGEST, line
        return None


# --- values of any kind at any place

STRANGE = st.one_of(
    st.sampled_from((None, True, False, 0, -1, 1, 2, 3, 7, 10**9, 2**63, 10**40, 1e400, float("nan"), 0.5, 1e-320)),
    st.sampled_from(("", "8", "silu", "swiglu", "\ud800", "default", "yarn", "a\nb", "x" * 5000)),
    st.sampled_from(([], {}, [0], [24, 20, 20], [[[]]], [10**9] * 3, {"rope_type": "yarn"}, {"mrope_section": [16]})),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 40), max_size=4),
)
# Where and what: a number picks one of all the places that there are.
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), STRANGE, st.booleans()), min_size=1, max_size=3)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in JSON, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in inner for place in ((*above, key), *places(part, (*above, key)))]


def changed(value: Any, changes: list[tuple[int, Any, bool]]) -> Any:
    """JSON with values at some places replaced, or taken out."""
    made = copy.deepcopy(value)
    for number, new, take_out in changes:
        there = places(made)
        if there:
            *way, last = there[number % len(there)]
            part = made
            for key in way:
                part = part[key]
            if take_out:
                del part[last]
            else:
                part[last] = copy.deepcopy(new)
    return made


def at(value: Any, *way: Any) -> int:
    """The number of a place, for the examples."""
    return places(value).index(way)


# --- what is damaged


@pytest.fixture(scope="module")
def copied(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("hold") / "tiny"))


@pytest.fixture
def whole(copied: Path, folder: Path) -> Path:
    """The tiny model's folder; what an earlier input has written is put right."""
    for name in os.listdir(copied):
        if not (folder / name).exists():
            (copied / name).unlink()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if (copied / name).read_bytes() != (folder / name).read_bytes():
            shutil.copy(folder / name, copied / name)
    return copied


@generated(60)
@hypothesis.given(changes=CHANGES)
def test_configurations(changes: list[tuple[int, Any, bool]], whole: Path, folder: Path) -> None:
    config = changed(json.loads((folder / "config.json").read_text()), changes)
    (whole / "config.json").write_text(json.dumps(config))
    find([str(whole.parent)])
    opened = told(lambda: open_checkpoint(str(whole)))
    if opened:
        assert opened.layers == 5
        assert told(lambda: blank(transformers_classes()[0], opened)), "what is opened is what a model can be built of"


@generated(40)
@hypothesis.given(data=st.binary(max_size=300), start=st.sampled_from((b"", b"{", b'{"model_type": "qwen3_vl", "x":')))
@hypothesis.example(data=b"[" * 100_000, start=b"")
@hypothesis.example(data=b"1" * 5000, start=b"")
@hypothesis.example(data=b'"\\ud800"}', start=b'{"model_type": "qwen3_vl", "x":')
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "tokenizer.json"])
def test_bytes_for_json(name: str, data: bytes, start: bytes, whole: Path) -> None:
    (whole / name).write_bytes(start + data)
    find([str(whole.parent)])
    opened = told(lambda: open_checkpoint(str(whole)))
    assert (opened is None) == (name != "tokenizer.json")
    if name == "tokenizer.json":
        assert told(lambda: read_tokenizer(str(whole))) is None


NAMES = st.one_of(
    st.text(max_size=10),
    st.sampled_from(
        ("model.safetensors", "../model.safetensors", "a/b", "config.json", "", ".", "..", "\0", "C:x", None, 5)
    ),
)


@generated(40)
@hypothesis.given(names=st.dictionaries(st.text(max_size=3), NAMES, max_size=4))
def test_indices(names: dict[str, Any], whole: Path) -> None:
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    find([str(whole.parent)])
    opened = told(lambda: open_checkpoint(str(whole)))
    assert (opened is not None) == (set(names.values()) == {"model.safetensors"})


# --- headers


@pytest.fixture(scope="module")
def header(folder: Path) -> dict[str, Any]:
    with (folder / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        parsed: dict[str, Any] = json.loads(file.read(length))
    return parsed


def with_header(path: Path, header: object, size: int) -> None:
    """A file whose tensors are holes."""
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + size)


@generated(60)
@hypothesis.given(changes=CHANGES, cut=st.integers(-3, 3), alone=st.booleans())
def test_headers(
    changes: list[tuple[int, Any, bool]], cut: int, alone: bool, header: dict[str, Any], whole: Path, folder: Path
) -> None:
    made = changed(header, changes)
    size = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    with_header(whole / "model.safetensors", made, max(0, size + cut))
    find([str(whole.parent)])
    opened = told(lambda: open_checkpoint(str(whole / "model.safetensors" if alone else whole)))
    if opened:
        told(lambda: load(opened, torch.float32))


@generated(40)
@hypothesis.given(
    number=st.one_of(st.sampled_from((5, 6, 999999999, 10**5000)), st.integers(0, 10**12)),
    stack=st.sampled_from(("language_model.layers", "visual.blocks", "visual.deepstack_merger_list")),
    shape=st.lists(st.integers(0, 3), max_size=3),
    alone=st.booleans(),
)
def test_counts_are_never_believed(
    number: int, stack: str, shape: list[int], alone: bool, header: dict[str, Any], whole: Path
) -> None:
    digits = "9" * 5000 if number > 10**4000 else str(number)
    size = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    count = 4
    for side in shape:
        count *= side
    added = {"dtype": "F32", "shape": shape, "data_offsets": [size, size + count]}
    with_header(whole / "model.safetensors", header | {f"model.{stack}.{digits}.norm.weight": added}, size + count)
    find([str(whole.parent)])
    opened = told(lambda: open_checkpoint(str(whole / "model.safetensors" if alone else whole)))
    if opened:  # a part of a layer that is there anyway, or of none that the model has
        assert (opened.layers, opened.config["vision_config"]["depth"]) == (5, 4)


@generated(60)
@hypothesis.given(
    data=st.binary(max_size=200),
    start=st.sampled_from((b"", struct.pack("<Q", 20) + b'{"', b"GGUF\3\0\0\0", b"\x80", b"<html>")),
    name=st.sampled_from(
        ("a.safetensors", "a.SFT", "a.gguf", "model-00001-of-00002.safetensors", "a.safetensors.part")
    ),
)
def test_bytes_for_weights(data: bytes, start: bytes, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / name).write_bytes(start + data)
    with bounded():
        assert find([str(folder)]) == {}
    assert told(lambda: open_checkpoint(str(folder / name))) is None
    assert told(lambda: open_checkpoint(str(folder))) is None
    shutil.rmtree(folder)


# --- tokenizers


@generated(60)
@hypothesis.given(changes=CHANGES, text=st.text(max_size=20))
def test_tokenizers(changes: list[tuple[int, Any, bool]], text: str, whole: Path, folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    (whole / "tokenizer.json").write_text(json.dumps(changed(data, changes)))
    encode = told(lambda: read_tokenizer(str(whole)))
    if encode:
        ids = told(lambda: encode(f"<|im_start|>user\n{text}<|im_end|>\n"))
        if ids is not None:
            assert [ids[0]] == encode("<|im_start|>")
            assert all(type(id) is int and id >= 0 for id in ids)
