"""The bias on attention logits, against softmax arithmetic in float64: every share times its weight, made one again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zvl_ext.attention import (
    COUNT,
    FILL,
    FLOOR,
    MULTIPLE,
    OWNER,
    Biases,
    Layout,
    bias,
    filling,
    marks,
    masked,
    padded,
    patches_of,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Of a share: a logit of 10 is kept to 2^-9, 2^-12 and 2^-24 of itself.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 6e-3}
BATCH, HEADS, QUERIES, KEYS = 2, 3, 5, 12


def shares(logits: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Softmax over the keys, each share times its factor, made one again: nothing else is the definition."""
    exps = np.exp(logits - logits.max(-1, keepdims=True)) * factors
    return exps / exps.sum(-1, keepdims=True)


def attended(logits: np.ndarray, added: torch.Tensor | None) -> np.ndarray:
    """Softmax of the logits with what is added to them."""
    more = 0.0 if added is None else added.double().numpy()
    return shares(logits + more, np.ones(logits.shape[-1]))


def row_marks(*rows: tuple[float, float]) -> torch.Tensor:
    """Marks [1, rows, 2] of (whose, how many it stands for)."""
    return torch.tensor([rows], dtype=torch.float32)


def random_case(seed: int) -> tuple[np.random.Generator, np.ndarray, torch.Tensor]:
    """Logits [batch, heads, queries, keys] and marks of two references, nobody's rows and rows that fill."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0.0, 3.0, (BATCH, HEADS, QUERIES, KEYS))
    owner = torch.tensor(rng.choice([FILL, 0, 1, 2], (BATCH, KEYS)))
    owner[:, 0] = 0  # somebody has to be left to attend to
    count = torch.tensor(np.where(owner.numpy() > 0, rng.integers(1, 10, (BATCH, KEYS)), 0))
    return rng, logits, marks(owner, count)


def factors_of(marked: torch.Tensor, weights: np.ndarray) -> np.ndarray:
    """What every share is multiplied with [batch, heads, 1, keys], row by row, from weights [batch, references,
    heads]."""
    wanted = np.ones((marked.shape[0], weights.shape[-1], 1, marked.shape[1]))
    for item, rows in enumerate(marked.tolist()):
        for key, (owner, count) in enumerate(rows):
            for head in range(weights.shape[-1]):
                if owner == FILL:
                    wanted[item, head, 0, key] = 0.0
                elif owner > 0:
                    wanted[item, head, 0, key] = weights[item, int(owner) - 1, head] * count
    return wanted


# --- one weight


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [1e-9, 0.01, 0.5, 2.0, 1000.0])
def test_a_share_is_multiplied_with_the_weight(weight: float, dtype: torch.dtype) -> None:
    logits = np.random.default_rng(0).normal(0.0, 2.0, (1, 2, 4, 5))
    added = bias(row_marks((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)), torch.tensor([weight]), dtype)
    assert added.dtype == dtype
    assert added.shape == (1, 1, 1, 5)
    wanted = shares(logits, np.array([1.0, weight, weight, 1.0, 1.0]))
    np.testing.assert_allclose(attended(logits, added), wanted, rtol=TOLERANCE[dtype], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_rows_that_are_nobodys_keep_their_proportions(dtype: torch.dtype) -> None:
    logits = np.random.default_rng(1).normal(0.0, 2.0, (1, 1, 3, 4))
    added = bias(row_marks((0, 0), (1, 1), (0, 0), (0, 0)), torch.tensor([0.3]), dtype)
    got, plain = (attended(logits, each)[..., [0, 2, 3]] for each in (added, None))
    np.testing.assert_allclose(
        got / got.sum(-1, keepdims=True), plain / plain.sum(-1, keepdims=True), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weight_0_is_as_if_the_rows_were_not_there(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(2)
    q, k, v = (torch.tensor(rng.normal(size=(1, 2, n, 8))).to(dtype) for n in (3, 6, 6))
    marked = row_marks((0, 0), (1, 1), (1, 4), (FILL, 0), (0, 0), (0, 0))
    added = bias(marked, torch.tensor([0.0]), dtype)
    kept = [0, 4, 5]
    attention = torch.nn.functional.scaled_dot_product_attention
    got = torch.softmax((q.float() @ k.float().mT) + added.float(), -1)
    assert torch.equal(got[..., [1, 2, 3]], torch.zeros(1, 2, 3, 3)), "nothing is left of their share"
    with_rows, without = attention(q, k, v, attn_mask=added), attention(q, k[:, :, kept], v[:, :, kept])
    assert torch.allclose(with_rows.float(), without.float(), atol=TOLERANCE[dtype])


def test_where_every_weight_is_1_there_is_no_bias() -> None:
    assert bias(row_marks((0, 0), (1, 1), (2, 1)), torch.tensor([1.0, 1.0]), torch.float32) is None
    assert bias(row_marks((0, 0), (0, 0)), torch.tensor([0.0]), torch.float32) is None, "there is no row of it"
    everything = torch.ones(1, 4, 2, dtype=torch.bool)
    assert bias(row_marks((0, 0), (1, 1), (2, 1)), torch.ones(2), torch.float32, everything) is None


@pytest.mark.parametrize(
    "marked", [row_marks((0, 0), (1, 2)), row_marks((0, 0), (FILL, 0))], ids=["counts", "rows that fill"]
)
def test_a_weight_of_1_is_not_enough_to_be_without_a_bias(marked: torch.Tensor) -> None:
    assert bias(marked, torch.tensor([1.0]), torch.float32) is not None


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_rows_that_fill_are_out_whatever_the_weight(weight: float) -> None:
    added = bias(row_marks((0, 0), (1, 1), (FILL, 0), (FILL, 3)), torch.tensor([weight]), torch.float32)
    assert added[0, 0, 0, 2:].tolist() == [FLOOR, FLOOR]
    assert added[0, 0, 0, 0] == 0.0


def test_a_row_that_stands_for_four_has_the_share_of_four_alike() -> None:
    """Proportional attention: one row with the count 4 is the same as that row four times."""
    rng = np.random.default_rng(3)
    q, prompt, image = (torch.tensor(rng.normal(size=(1, 1, n, 8))) for n in (3, 2, 1))
    weight = torch.tensor([0.7])

    def read(image_rows: int, count: float) -> torch.Tensor:
        k = torch.cat([prompt, image.expand(-1, -1, image_rows, -1)], dim=2)
        added = bias(row_marks((0, 0), (0, 0), *[(1, count)] * image_rows), weight, torch.float64)
        return torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=added)

    assert torch.allclose(read(1, 4), read(4, 1), atol=1e-7)


# --- many at once


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_for_each_batch_item_and_head(seed: int, dtype: torch.dtype) -> None:
    rng, logits, marked = random_case(seed)
    weights = rng.choice([0.0, 1e-9, 0.05, 0.5, 1.0, 2.0], (BATCH, 2, HEADS))
    added = bias(marked, torch.tensor(weights), dtype)
    assert added.shape == (BATCH, HEADS, 1, KEYS)
    wanted = shares(logits, factors_of(marked, weights))
    np.testing.assert_allclose(attended(logits, added), wanted, rtol=TOLERANCE[dtype], atol=1e-9)


@pytest.mark.parametrize("form", ["all alike", "by batch item", "by head"])
def test_the_forms_that_weights_come_in(form: str) -> None:
    rng, logits, marked = random_case(7)
    weights = rng.uniform(0.0, 2.0, (BATCH, 2, HEADS))
    if form == "all alike":
        weights[:] = weights[:1, :, :1]
        given = weights[0, :, 0]
    elif form == "by batch item":
        weights[:] = weights[:, :, :1]
        given = weights[:, :, 0]
    else:
        weights[:] = weights[:1]
        given = weights[:1]
    added = bias(marked, torch.tensor(given), torch.float64)
    assert added.shape[1] == (HEADS if form == "by head" else 1)
    np.testing.assert_allclose(
        attended(logits, added), shares(logits, factors_of(marked, weights)), rtol=1e-5, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(8))
def test_queries_that_may_not_see_a_reference_do_not(seed: int) -> None:
    rng, logits, marked = random_case(seed)
    weights = np.broadcast_to(rng.uniform(0.1, 2.0, (BATCH, 2, 1)), (BATCH, 2, HEADS))
    seen = rng.random((1 if seed % 2 else BATCH, QUERIES, 2)) < 0.5
    added = bias(marked, torch.tensor(weights[..., 0].copy()), torch.float32, torch.tensor(seen))
    assert added.shape == (BATCH, 1, QUERIES, KEYS)
    wanted = np.broadcast_to(factors_of(marked, weights), logits.shape).copy()
    for item in range(BATCH):
        for key, owner in enumerate(marked[item, :, OWNER].int().tolist()):
            if owner > 0:
                wanted[item, :, ~seen[item % len(seen), :, owner - 1], key] = 0.0
    np.testing.assert_allclose(attended(logits, added), shares(logits, wanted), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-9, 1e-6, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("count", [1, 1000])
def test_nothing_overflows(weight: float, count: int, dtype: torch.dtype) -> None:
    added = bias(row_marks((0, 0), (1, count), (1, count), (FILL, 0)), torch.tensor([weight]), dtype)
    assert added.isfinite().all()
    q, k = torch.randn(2, 1, 2, 4, 16, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 8
    out = torch.nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=added)
    assert out.isfinite().all()
    assert torch.softmax(added, -1).isfinite().all()


def test_a_smaller_weight_is_a_smaller_share_down_to_none() -> None:
    logits = np.zeros((1, 1, 1, 3))
    marked = row_marks((0, 0), (0, 0), (1, 1))
    got = [
        attended(logits, bias(marked, torch.tensor([w]), torch.float16))[..., 2].item()
        for w in (2.0, 1.0, 0.5, 0.01, 1e-6, 1e-9, 0.0)
    ]
    assert got == sorted(got, reverse=True)
    assert len(set(got)) == len(got)
    assert got[-1] == 0.0


# --- with what a model has already


def test_a_bias_with_a_mask_of_the_keys() -> None:
    added = bias(row_marks((0, 0), (1, 1), (0, 0)).expand(2, -1, -1), torch.tensor([0.5]), torch.float32)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    both = masked(added, mask)
    assert torch.equal(both[0], added[0])
    assert both[1, 0, 0].tolist() == [*added[1, 0, 0, :2].tolist(), FLOOR]
    assert torch.equal(masked(added, mask[:, None, None]), both), "in the attention's own shape, too"


def test_a_bias_with_a_mask_for_every_query() -> None:
    added = bias(row_marks((0, 0), (1, 1)), torch.tensor([0.5]), torch.float32)
    mask = torch.tensor([[[[True, False], [True, True]]]])
    assert masked(added, mask)[0, 0].tolist() == [[0.0, FLOOR], added[0, 0, 0].tolist()]


def test_a_bias_with_another_bias_is_their_sum() -> None:
    added = bias(row_marks((0, 0), (1, 1)), torch.tensor([0.5]), torch.float16)
    both = masked(added, torch.tensor([[[[1.0, 2.0]]]]))
    assert both.dtype == torch.float16
    assert torch.equal(both, added + torch.tensor([1.0, 2.0], dtype=torch.float16))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("queries", [None, 1, 4])
def test_a_mask_of_fewer_dimensions_stays_with_its_batch_item(dtype: torch.dtype, queries: int | None) -> None:
    added = bias(row_marks((0, 0), (1, 1), (0, 0)).expand(2, -1, -1), torch.tensor([0.5]), torch.float32)
    whole = torch.rand(2, 1, queries or 1, 3, generator=torch.Generator().manual_seed(0))
    whole = whole < 0.5 if dtype == torch.bool else whole
    wanted = masked(added, whole)
    assert torch.equal(masked(added, whole[:, 0] if queries else whole[:, 0, 0]), wanted)
    assert wanted.shape == (2, 1, queries or 1, 3)


def test_a_bias_without_a_mask_is_itself() -> None:
    added = torch.zeros(1, 1, 1, 3)
    assert masked(added, None) is added


# --- marks on their way


def test_marks_are_two_columns() -> None:
    made = marks(torch.tensor([0, 1, -1]), torch.tensor([0, 4, 0]))
    assert made.dtype == torch.float32
    assert made[:, OWNER].tolist() == [0, 1, FILL]
    assert made[:, COUNT].tolist() == [0, 4, 0]


def test_rows_around_a_caption_are_nobodys() -> None:
    marked = row_marks((1, 2), (FILL, 0), (0, 0))
    around = padded(marked, 2, 8)
    assert around.shape == (1, 8, 2)
    assert torch.equal(around[:, 2:5], marked)
    assert not around[:, :2].any()
    assert not around[:, 5:].any()


@pytest.mark.parametrize(("rows", "fill"), [(1, 31), (31, 1), (32, 0), (33, 31), (64, 0), (578, 30)])
def test_a_block_is_filled_to_a_multiple(rows: int, fill: int) -> None:
    assert filling(rows) == fill
    assert (rows + filling(rows)) % MULTIPLE == 0


def test_biases_of_a_call_are_those_of_its_blocks() -> None:
    marked = row_marks((1, 2), (1, 1), (0, 0)).expand(2, -1, -1)
    weights = torch.tensor([[0.5], [1.0]])
    got = Biases(marked, weights).of(torch.tensor([[2.0], [0.25]]), Layout(6, 1), torch.float32)
    wanted = bias(padded(marked, 1, 6), torch.tensor([[1.0], [0.25]]), torch.float32)
    assert torch.equal(got, wanted)
    alike = Biases(marked, weights).of(torch.tensor([[0.5]]), Layout(3), torch.bfloat16)
    assert torch.equal(alike, bias(marked, torch.tensor([[0.25], [0.5]]), torch.bfloat16))


def test_each_bias_of_a_call_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from zvl_ext import attention

    made = []
    monkeypatch.setattr(attention, "bias", lambda *args: made.append(args) or bias(*args))
    biases = Biases(row_marks((1, 1), (0, 0)), torch.tensor([[0.5]]))
    asked = [
        biases.of(torch.tensor([[factor]]), Layout(keys, before), dtype)
        for factor, before, keys, dtype in [
            (1.0, 0, 2, torch.float32),
            (1.0, 0, 2, torch.float32),
            (2.0, 0, 2, torch.float32),  # nothing is changed: that, too, is found out once
            (2.0, 0, 2, torch.float32),
            (1.0, 1, 4, torch.float32),
            (1.0, 0, 4, torch.float32),
            (1.0, 0, 2, torch.float16),
        ]
    ]
    assert len(made) == 5
    assert asked[0] is asked[1]
    assert asked[2] is asked[3] is None


# --- regions


def test_a_region_is_seen_by_its_patches_and_by_its_own_rows_alone() -> None:
    marked = row_marks((1, 1), (2, 1), (FILL, 0), (0, 0))
    regions = torch.tensor([[[1.0, 1.0], [0.25, 1.0], [0.0, 1.0]]])  # three patches, two references
    limited = torch.tensor([[True, False]])
    weights = torch.tensor([[0.5, 2.0]])
    got = Biases(marked, weights, regions, limited).of(torch.ones(1, 2), Layout(8, 0, 4), torch.float64)
    assert got is not None
    shares = got[0, 0].exp()  # [queries, keys]: what each key's share is multiplied with
    first = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5, 0.125, 0.0, 0.0])  # rows 4 to 6 are the patches
    torch.testing.assert_close(shares[:, 0], first.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(shares[:, 1], torch.full((8,), 2.0).double(), atol=1e-6, rtol=1e-6)
    assert (got[0, 0, :, 2] == FLOOR).all()  # rows that fill
    assert (shares[:, 3:] == 1.0).all()


def test_a_region_in_a_sequence_without_a_picture_is_seen_by_its_own_rows() -> None:
    marked = row_marks((1, 1), (1, 1), (0, 0))
    biases = Biases(marked, torch.ones(1, 1), torch.ones(1, 4, 1), torch.tensor([[True]]))
    got = biases.of(torch.ones(1, 1), Layout(3), torch.float32)
    assert got is not None
    assert got[0, 0].tolist() == [[0, 0, 0], [0, 0, 0], [FLOOR, FLOOR, 0]]


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (1, 1), (3, 5), (16, 8)])
def test_a_region_on_patches_keeps_its_area(rows: int, columns: int) -> None:
    region = torch.zeros(60, 80)
    region[:, :40] = 1.0
    got = patches_of(region, rows, columns)
    assert got.shape == (rows * columns,)
    assert got.mean() == pytest.approx(0.5, abs=1e-6 if columns % 2 == 0 or columns == 1 else 0.02)
    if columns > 1:
        assert (got.view(rows, columns)[:, 0] == 1).all()
        assert (got.view(rows, columns)[:, -1] == 0).all()
