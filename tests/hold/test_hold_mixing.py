"""Generated rows and settings: what the mixing lets out is finite and of the right shape, or it is refused."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from bounds import bounded, generated

from zvl_ext.attention import FILL, FLOOR, bias, marks, masked
from zvl_ext.conditioner import mixed
from zvl_ext.conditioning import Conditioning, Part
from zvl_ext.errors import ZvlError
from zvl_ext.mixing.select import Rows, drop_image_rows, merge_image_rows
from zvl_ext.mixing.statistics import ReferenceStatistics, compare, measure
from zvl_ext.options import BY_NAME, Settings
from zvl_ext.weighting import CURVES, Weighting, block_factors

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
HIDDEN = 6
kinds = st.sampled_from(["ordinary", "constant", "zero", "sink", "huge", "tiny", "largest", "nan", "inf"])
SCALES = {"ordinary": 5.0, "huge": 3e37, "tiny": 1e-38, "sink": 1.0, "largest": 6e4}


def filled(kind: str, rows: int, seed: int) -> torch.Tensor:
    values = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(seed)) * SCALES.get(kind, 1.0)
    if kind in ("constant", "zero"):
        values[:] = 3.0 * (kind == "constant")
    elif kind == "sink":
        values[0, 0] = 20000.0
    elif kind in ("nan", "inf"):
        values[-1, -1] = float(kind)
    return values


@st.composite
def sides(draw):
    """Text embeddings and rows of a sequence with a block in it."""
    head, words, tail = draw(st.integers(0, 3)), draw(st.integers(0, 5)), draw(st.integers(0, 4))
    lines, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n, images, seed = max(head + words + tail, 1), lines * columns, draw(st.integers(0, 99))
    text = filled(draw(kinds), draw(st.sampled_from([n, n, 1, 2, 9])), seed)
    text = text.to(draw(st.sampled_from(FLOATS)))
    own = torch.ones(n + images, dtype=torch.bool)
    own[head : head + images] = False
    mode = draw(st.sampled_from(["text", "image", "all"]))
    kept = {"text": own, "image": ~own, "all": torch.ones_like(own)}[mode]
    states = filled(draw(kinds), n + images, seed + 1)
    return text, Rows(states[kept], own[kept], ~own[kept], head, tail, (lines, columns) if mode != "text" else (0, 0))


def chosen(name: str) -> st.SearchStrategy:
    option = BY_NAME[name]
    if option.choices:
        return st.sampled_from(option.choices)
    return st.booleans() if option.kind == "switch" else st.floats(option.minimum, option.maximum)


NAMES = (
    "alpha", "normalization", "outlier_repair", "outlier_threshold", "outlier_direction", "length_match", "blend_mode",
    "block_place", "scale_to_text", "weight", "start", "end", "curve", "proportional",
)  # fmt: skip
settings = st.builds(
    lambda engine, **values: Settings(engine=engine, token_mode="all", **values),
    st.sampled_from(BY_NAME["engine"].choices),
    **{name: chosen(name) for name in NAMES},
)
statistics = st.builds(
    lambda kind, seed: ReferenceStatistics(filled(kind, 1, seed)[0], filled(kind, 1, seed + 1)[0].abs(), 7.0),
    kinds, st.integers(0, 9),
)  # fmt: skip
FP16 = Settings(engine="blend", token_mode="text", alpha=1.0, normalization="none", length_match="interpolate")


def test_a_prompt_of_fewer_rows_than_the_head_of_its_template() -> None:
    """Found by the test below: the block stands behind what there is."""
    block, one = torch.zeros(1, dtype=torch.bool), torch.ones(1, 4)
    rows = Rows(2 * one, block, ~block, 2, 0, (1, 1))
    weighed = Settings(
        engine="blend",
        token_mode="all",
        length_match="insert",
        block_place="behind head",
        scale_to_text=False,
        weight=0.5,
    )
    made = mixed(weighed, one, rows, None)
    assert torch.equal(made.rows[:2], torch.cat([one, 2 * one]))
    assert torch.equal(made.at(0.0)[:1], one)


@hypothesis.given(sides(), settings, statistics, st.integers(1, 3), st.integers(0, 5))
@generated(120)
def test_what_leaves_is_finite_or_refused(case, chosen, reference, merge, dropped) -> None:
    text, rows = case
    with bounded():
        try:
            if rows.grid != (0, 0):
                rows = merge_image_rows(rows, merge, counted=True)
                rows = drop_image_rows(rows, min(dropped, int(rows.image.sum()) - 1), 0, counted=True)
            made = mixed(chosen, text, rows, reference)
        except ZvlError:
            return
        if made.rows is text:
            return  # the plain picture, whatever it is
        for rows in (made.rows, made.plain, *(made.at(way) for way in (0.0, 0.3, 0.7, 0.99))):
            assert rows is None or (rows.isfinite().all() and rows.dtype == text.dtype and rows.shape[1] == HIDDEN)
        if made.marks is not None:
            assert made.marks.isfinite().all()
            assert len(made.marks) == len(made.rows)


def rows_of(states: torch.Tensor) -> Rows:
    return Rows(states, torch.ones(len(states), dtype=torch.bool), torch.zeros(len(states), dtype=torch.bool), 3)


def test_what_float16_can_not_hold_is_refused() -> None:
    text, large = torch.ones(5, HIDDEN).half(), torch.full((5, HIDDEN), 1e6)
    with pytest.raises(ZvlError, match="not finite in float16"):
        mixed(FP16, text, rows_of(large), None)
    assert mixed(FP16, text.float(), rows_of(large), None).rows.max() == 1e6


def test_text_embeddings_that_are_not_finite_are_called_so() -> None:
    with pytest.raises(ZvlError, match="text encoder gives values that are not finite"):
        mixed(FP16, filled("nan", 5, 0), rows_of(torch.ones(5, HIDDEN)), None)


@pytest.mark.parametrize("dtype", FLOATS)
def test_between_two_rows_at_the_ends_of_a_dtype_lies_a_finite_one(dtype) -> None:
    largest = torch.full((3, HIDDEN), torch.finfo(dtype).max, dtype=dtype)
    between = Conditioning(largest, (Part(Weighting(curve="ease in"), own=largest),), -largest)
    assert all(between.at(way).isfinite().all() for way in (0.1, 0.5, 0.9))


@hypothesis.given(kinds, kinds, st.integers(1, 4), st.integers(1, 4))
@generated(60)
def test_comparisons_are_numbers(text, vl, n, m) -> None:
    finite = not {"nan", "inf"} & {text, vl}
    with bounded():
        if finite:
            told = compare(filled(text, n, 0), filled(vl, m, 1))
            flat = [v for k, v in told.items() if k != "worst_dimensions"] + [x for _, x in told["worst_dimensions"]]
            assert all(abs(value) < float("inf") for value in flat)
        try:
            measured = measure(filled(text, n, 0))
        except ZvlError:
            assert text in ("nan", "inf")
        else:
            assert measured.per_dim_std.isfinite().all()
            assert abs(measured.global_std) < float("inf")


# --- attention


@st.composite
def attended(draw):
    keys, batch, references = draw(st.integers(1, 6)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    owners = st.lists(st.sampled_from([FILL, 0, *range(1, references + 1)]), min_size=keys, max_size=keys)
    counts = st.lists(st.floats(0, 1000, width=32), min_size=keys, max_size=keys)
    marked = torch.stack([marks(torch.tensor(draw(owners)), torch.tensor(draw(counts))) for _ in range(batch)])
    weights = torch.tensor(draw(st.lists(st.floats(0, 64, width=32), min_size=references, max_size=references)))
    dtype = draw(st.sampled_from(FLOATS))
    low = torch.finfo(dtype).min
    mask = draw(st.sampled_from([None, True, False, 0.0, -1.0, low, -float("inf"), torch.finfo(torch.float32).min]))
    if mask is not None:
        mask = torch.full((batch, keys), mask, dtype=torch.bool if isinstance(mask, bool) else torch.float32)
        mask[:, 0] = draw(st.booleans()) if mask.dtype == torch.bool else 0.0
    return marked, weights, dtype, mask


@hypothesis.given(attended())
@generated(100)
def test_attention_with_any_weights_and_mask_is_finite(case) -> None:
    marked, weights, dtype, mask = case
    with bounded():
        added = bias(marked, weights, dtype)
        if added is None:
            return
        assert added.isfinite().all()
        assert added.min() >= FLOOR * 1.01
        logits = masked(added, mask)
        assert logits.isfinite().all()
        assert logits.float().softmax(-1).isfinite().all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, -float("inf"), -6e4])
def test_a_row_whose_keys_are_all_hidden_does_not_become_nan(hidden, dtype) -> None:
    added = torch.full((1, 1, 2, 3), FLOOR, dtype=dtype)
    assert masked(added, torch.full((1, 3), hidden)).softmax(-1).isfinite().all()


weightings = st.builds(
    Weighting, st.floats(0, 8), st.floats(0, 1), st.floats(0, 1), st.sampled_from(list(CURVES)),
    st.sampled_from(["all", "early", "0-9:0.5, 20-29", "late:0"]),
)  # fmt: skip


@hypothesis.given(weightings, st.floats(0, 1, exclude_max=True), st.integers(0, 40))
@generated(100)
def test_a_weight_is_a_number_from_0_to_its_largest(weighting, way, blocks) -> None:
    assert 0 <= weighting.at(way) <= weighting.weight * (1 + 1e-9)
    assert 0 <= weighting.part(way) <= 1
    assert len(weighting.factors(blocks)) == blocks
    if weighting.plain:
        assert weighting.at(way) == 1.0


@hypothesis.given(st.text(alphabet="0123456789-:., alerdymitx\n٣", max_size=30))
@hypothesis.example("0-" + "9" * 5000)
@hypothesis.example("all:" + "9" * 5000)
@generated(100)
def test_any_text_names_blocks_or_is_refused(text) -> None:
    with bounded():
        try:
            factors = block_factors(text, 30)
        except ZvlError:
            return
        assert len(factors) == 30
        assert all(0 <= factor <= 8 for factor in factors)
