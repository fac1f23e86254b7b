"""Generated profiles: tensors, texts and bytes of any kind. Each is a profile that can be used, or is refused in one
short line."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated
from safetensors.torch import save_file

from zvl_ext.errors import ZvlError
from zvl_ext.factors import factors_of
from zvl_ext.profiles import ABOUT, FORMAT, Profile, read_profile, write_profile
from zvl_ext.weighting import Weighting

GOOD = {"main": torch.linspace(-3, 1, 12).reshape(3, 4), "refiner": torch.zeros(2, 4)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hold") / "p.safetensors"
    write_profile(str(path), *GOOD.values(), {"engine": "splice", "pictures": 3})
    return path


def opened(path: Path) -> Profile | None:
    """A profile, once it was used; None where it is refused."""
    with bounded(memory=2**30):
        try:
            profile = read_profile(str(path))
        except ZvlError as error:
            line = str(error).replace(str(path), "")
            assert line.isprintable(), repr(line)
            assert 0 < len(line) <= 300, line
            return None
        made = factors_of([[Weighting(profile=profile)]], len(profile.main), len(profile.refiner))
        assert all(bool(each.isfinite().all()) and bool((each > 0).all()) for each in (*made.main, *made.refiner))
        assert all(text.isprintable() and name in ABOUT for name, text in profile.about)
        assert all(line.isprintable() for line in profile.differences({"engine": "blend"}))
        return profile


DTYPES = (torch.float32, torch.float16, torch.float64, torch.int8, torch.bool, torch.float8_e4m3fn)
TENSORS = st.builds(
    lambda shape, number, dtype: torch.full(shape, number).to(dtype),
    st.lists(st.sampled_from((0, 1, 2, 3, 4, 600)), max_size=3),
    st.sampled_from((0.0, -30.0, 3.0, 3.1, -1e9, float("nan"), float("inf"))),
    st.sampled_from(DTYPES),
)


@generated(25)
@hypothesis.given(st.dictionaries(st.sampled_from(("main", "refiner", "x", "")), st.none() | TENSORS, min_size=1))
def test_tensors_of_any_kind(file: Path, changes: dict[str, torch.Tensor | None]) -> None:
    tensors = {name: each for name, each in (GOOD | changes).items() if each is not None}
    other = file.with_name("tensors.safetensors")
    save_file(tensors, other, {"format": FORMAT})
    opened(other)


@generated(25)
@hypothesis.given(st.dictionaries(st.sampled_from(("format", *ABOUT, "x")), st.text(max_size=40), max_size=4))
@hypothesis.example({"format": "zvl-profile-" + "9" * 5000})
@hypothesis.example({"engine": "\x00\x1b[31m\u202e", "gained": "x" * 10**5})
def test_texts_of_any_kind(file: Path, changes: dict[str, str]) -> None:
    other = file.with_name("texts.safetensors")
    save_file(GOOD, other, {"format": FORMAT} | changes)
    opened(other)


@generated(25)
@hypothesis.given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=4), st.integers(0, 60))
def test_bytes_of_any_kind(file: Path, changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(file.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    other = file.with_name("bytes.safetensors")
    other.write_bytes(data[: len(data) - cut])
    opened(other)
