"""Generated conditioning files: tensors, texts and bytes of any kind. Each is a conditioning that can be used at every
step, or is refused in one short line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zvl_ext.conditioning import Part, joined
from zvl_ext.conditioning_file import WEIGHTING, About, Saved, load, save
from zvl_ext.errors import ZvlError
from zvl_ext.options import BY_NAME, OPTIONS
from zvl_ext.profiles import profile_of
from zvl_ext.weighting import Weighting

HIDDEN = 4
PROFILE = profile_of([[-1.0, 0.5, 0.0, 2.0]] * 3, [[0.25, -2.0, 1.0, 0.0]], "soft", {"engine": "splice"})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hold") / "c.safetensors"
    torch.manual_seed(0)
    parts = (
        Part(
            Weighting(0.5, 0.1, 0.9, "ease in", profile=PROFILE),
            torch.randn(6, HIDDEN),
            torch.randn(3, HIDDEN),
            torch.ones(3) * 2,
        ),
        Part(Weighting(1.5, profile=PROFILE), torch.randn(6, HIDDEN), torch.randn(2, HIDDEN), region=torch.eye(4)),
    )
    save(joined(torch.randn(6, HIDDEN), parts, 3, torch.float32), str(path), About("a cat"))
    return path


def opened(path: Path) -> Saved | None:
    """The conditioning of a file, once it was used; None where it is refused."""
    with bounded(memory=2**30):
        try:
            saved = load(str(path))
        except ZvlError as error:
            line = str(error).replace(str(path), "")
            assert line.isprintable(), repr(line)
            assert 0 < len(line) <= 300, line
            return None
        for way in (0.0, 0.3, 0.95):
            rows = saved.conditioning.at(way)
            assert rows.ndim == 2
            assert rows.shape[1] == saved.conditioning.rows.shape[1]
            assert len(saved.conditioning.weights(way)) == len(saved.conditioning.parts)
        marks = saved.conditioning.marks
        assert marks is None or (marks.shape == (len(saved.conditioning), 2) and bool(marks.isfinite().all()))
        assert len(saved.digest) == 64
        return saved


NAMES = (
    "hidden_states",
    "text",
    "1.own",
    "1.block",
    "1.counts",
    "1.region",
    "2.own",
    "2.region",
    "3.own",
    "x",
    "",
    "profile.main",
    "profile.refiner",
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn)
NUMBERS = (0.0, 1.0, -1.0, 0.5, 3e38, 65504.0, float("nan"), float("inf"))
TENSORS = st.builds(
    lambda shape, number, dtype: torch.full(shape, number).to(dtype),
    st.lists(st.sampled_from((0, 1, 2, 3, HIDDEN, 6, 40)), max_size=4),
    st.sampled_from(NUMBERS),
    st.sampled_from(DTYPES),
)


@generated(60)
@hypothesis.given(st.dictionaries(st.sampled_from(NAMES), st.none() | TENSORS, min_size=1, max_size=3))
@hypothesis.example({"1.own": torch.full((6, HIDDEN), 3e38), "text": torch.full((6, HIDDEN), -3e38)})
@hypothesis.example({"hidden_states": torch.zeros(())})
def test_tensors_of_any_kind(file: Path, changes: dict[str, Any]) -> None:
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    tensors = {name: each for name, each in (load_file(file) | changes).items() if each is not None}
    other = file.with_name("tensors.safetensors")
    save_file(tensors, other, metadata)
    opened(other)
    save_file(tensors, other)  # the old form: rows alone, whatever is beside them
    opened(other)


STRANGE = st.one_of(
    st.sampled_from((None, True, 0, -1, 1, 2.5, 10**40, float("nan"), 1e400, "", "all", "9:9", "ease in", "x" * 5000)),
    st.sampled_from(([], {}, [[]], {"weight": 1})),
    st.floats(),
    st.text(max_size=6),
)
PART = st.dictionaries(st.sampled_from((*WEIGHTING, "against", "more")), STRANGE, max_size=7)
WHOLE = {**{name: BY_NAME[name].default for name in WEIGHTING}, "against": False}
PARTS = st.lists(st.one_of(PART, PART.map(lambda part: WHOLE | part), st.just(WHOLE)), max_size=6)
TEXTS = st.one_of(PARTS.map(json.dumps), st.text(max_size=20), st.sampled_from(("[" * 10**5, "1" * 5000, "[NaN]")))


@generated(80)
@hypothesis.given(
    st.dictionaries(
        st.sampled_from(("zvl_conditioning", "place", "parts", "prompt", "infotext", "x", "profile")),
        TEXTS,
        min_size=1,
        max_size=3,
    )
)
@hypothesis.example({"parts": json.dumps([WHOLE, WHOLE])})
@hypothesis.example({"place": "1" * 5000})
@hypothesis.example({"prompt": "\x00\x1b[31m\u202e"})
def test_texts_of_any_kind(file: Path, changes: dict[str, str]) -> None:
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    other = file.with_name("texts.safetensors")
    save_file(load_file(file), other, metadata | changes)
    opened(other)


@generated(60)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4), st.integers(0, 10**4))
@hypothesis.example([(7, 255)], 0)
def test_bytes_of_any_kind(file: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(file.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    other = file.with_name("bytes.safetensors")
    other.write_bytes(data[: len(data) - cut % 50])
    opened(other)


WEIGHTS = [o for o in OPTIONS if o.first in (*WEIGHTING, "region", "alpha") and o.kind not in ("image", "mask")]
VALUES = {"number": (0.0, 0.2, 1.0), "choice": ("ease in",), "blocks": ("all", "all:0", "late"), "region": ("left",)}


@generated(60)
@hypothesis.given(
    st.dictionaries(st.sampled_from(WEIGHTS), st.integers(0, 2), max_size=4).map(
        lambda picked: {o.name: VALUES[o.kind][n % len(VALUES[o.kind])] for o, n in picked.items()}
    )
)
def test_any_other_weights(file: Path, values: dict[str, Any]) -> None:
    """Each value acts or is said to have no effect; and what comes of it can be saved and loaded."""
    before = load(str(file))
    after, lines = before.changed({name: BY_NAME[name].check(value) for name, value in values.items()})
    assert len(after.changes) + len(lines) == len(values)
    other = file.with_name("weights.safetensors")
    save(after.conditioning, str(other), after.about)
    again = opened(other)
    assert again is not None
    for way in (0.0, 0.3, 0.95):
        assert torch.equal(again.conditioning.at(way), after.conditioning.at(way))
        assert again.conditioning.weights(way) == after.conditioning.weights(way)
