"""Generated rows, masks and requests: statistics are numbers that agree with NumPy, attention adds up, and what a
client sends is analysed or refused."""

from __future__ import annotations

import json
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import torch
from bounds import bounded, generated

from zvl_ext.analysis.data import data_of
from zvl_ext.analysis.layers import Layer
from zvl_ext.analysis.measuring import KINDS, Analysis, AtLayer, Kind, against
from zvl_ext.analysis.tables import tables
from zvl_ext.attention_shares import AttentionShares, shares
from zvl_ext.mixing.statistics import measure_all, moments, worst_of

SCALES = {"ordinary": 1.0, "huge": 1e30, "tiny": 1e-30, "zero": 0.0, "sink": 1.0, "largest": 3e38}
scales = st.sampled_from(sorted(SCALES))


def rows(scale: str, count: int, width: int, seed: int) -> torch.Tensor:
    values = torch.rand(count, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    values = (values.double() * SCALES[scale]).float()
    if scale == "sink" and count:
        values[0, 0] = 2e4
    return values


@hypothesis.given(scales, st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(1, 6), st.integers(0, 9))
@generated(60)
@hypothesis.example("largest", [1, 1], 2, 0)
@hypothesis.example("tiny", [0, 1, 0], 1, 0)
def test_rows_in_pieces_have_the_statistics_of_all(scale, pieces, width, seed) -> None:
    parts = [rows(scale, count, width, seed + i) for i, count in enumerate(pieces)]
    whole = torch.cat(parts).double().numpy()
    with bounded():
        got = measure_all(parts)
    assert got.tokens == len(whole)
    want = whole.std(0, ddof=1) if len(whole) > 1 else np.zeros(width)
    assert np.allclose(got.per_dim_std.double(), want, rtol=1e-5, atol=1e-45)
    assert math.isclose(got.global_std, whole.std(ddof=1) if whole.size > 1 else 0.0, rel_tol=1e-6, abs_tol=1e-45)


@hypothesis.given(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 7), st.integers(1, 9), st.sampled_from([1.0, 1e3, 1e-6]),
    st.sampled_from(["none", "bool", "float", "floor"]), st.integers(1, 40), st.integers(0, 99),
)  # fmt: skip
@generated(80)
def test_groups_of_all_keys_get_all_of_the_attention(per, kv, queries, keys, scale, mask, logits, seed) -> None:
    random = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(n, m, 4, generator=random) * scale for n, m in ((per * kv, queries), (kv, keys)))
    groups = torch.randint(0, 3, (keys,), generator=random)
    hidden = torch.rand(1, queries, keys, generator=random) < 0.5
    hidden[..., 0] = False
    bias = {"none": None, "bool": ~hidden, "float": hidden.float(), "floor": hidden * -1e4}[mask]
    with bounded():
        got = shares(query, key, groups, 3, bias, logits=logits)
        once = shares(query, key, groups, 3, bias)
    assert abs(float(got.sum()) - 1) < 1e-5
    assert torch.allclose(got, once, atol=1e-6)
    assert all(float(got[group]) == 0.0 for group in range(3) if not (groups == group).any())


@hypothesis.given(scales, scales, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
@generated(60)
@hypothesis.example("zero", "zero", 1, 1, 1, True, True)
def test_whatever_is_analysed_can_be_shown_and_written(text, vl, words, image, width, other, seen) -> None:
    every = rows(text, words, width, 0)
    taken = Layer(moments(every), moments(every[1:]), 1.0, 0.0)
    own = rows(vl, image, width + other, 1)
    kinds = []
    with bounded():
        for name in ("text rows", "image rows"):
            kinds.append(
                Kind(name, against(taken.whole, own), against(taken.ordinary, own[1:]), own.norm(dim=1).tolist(),
                     list(range(image)), {"none": 0.5})
            )  # fmt: skip
        layers = (AtLayer(-1, None, {name: against(taken.ordinary, own) for name in list(KINDS)[:2]}),)
        found = AttentionShares(2, blocks=2)
        if seen:
            found.add(0, 1, torch.tensor([0.1, 0.2, float("nan")]))
        prompt = Kind("prompt", against(taken.whole, every), against(taken.ordinary, every[1:]), [0.0], [0])
        analysis = Analysis({"prompt": "<b>"}, taken, "-2", 1, prompt, tuple(kinds), layers, 0.3, "none", found)
        for table in tables(analysis):
            assert all(len(row) == len(table.head) for row in table.rows)
            assert "<b>" not in table.html()
            assert "nan" not in table.text()
        data = data_of(analysis)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    for each in worst_of(taken.whole, moments(rows(vl, image, width, 1))):
        assert each.times >= 1
        assert each.direction == ("too small" if each.ratio < 1 else "too large")
