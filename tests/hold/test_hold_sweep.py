"""Any text as a sweep's axis: its values are such as the option takes, or it is one short line."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
from bounds import bounded, generated

from zvl_ext.errors import ZvlError
from zvl_ext.lab.sweep.axes import ASKED, MOST, known, parse
from zvl_ext.options import BY_NAME

names = st.sampled_from([*ASKED, *BY_NAME]) | st.text(max_size=8)
numbers = st.sampled_from(["0", "1", "-2", "0.2", "1e9", "1e-9", "nan", "-inf", "0x1", "1_0", "", " 3 ", "9" * 400])
pieces = st.lists(numbers, min_size=1, max_size=4).map(":".join) | st.sampled_from(["*", "true", '"a, b"', '"', "all"])
values = st.lists(pieces | st.text(max_size=6), max_size=5).map(",".join)


@generated(80)
@hypothesis.given(names, values)
@hypothesis.example("weight", "0:1:1e-400")
@hypothesis.example("weight", "-0:0:1e999999999")
@hypothesis.example("seed", "0:4294967295:1")
@hypothesis.example("seed", "9" * 5000)
@hypothesis.example("prompt", "\ud800")
@hypothesis.example("prompt", "a\x00b\rc\nd")
@hypothesis.example("preset", "Custom,*")
@hypothesis.example("steps", "1" + "0" * 5000 + ":2:1")
def test_any_text_is_an_axis_or_one_line(name: str, text: str) -> None:
    axis, said = None, "--axis "
    with bounded():
        try:
            axis = parse(f"{name}={text}")
        except ZvlError as error:
            said = str(error)
    assert said.startswith("--axis ")
    assert len(said.splitlines()) == 1
    assert len(said) <= 400
    if axis is not None:
        assert 1 <= len(axis.values) <= MOST * 5
        assert len(set(axis.values)) == len(axis.values)
        assert all(known(axis.name).check(value) == value for value in axis.values)
