"""Image rows averaged over neighbours, and how many rows each stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zvl_ext.mixing.select import Rows, drop_image_rows, merge_image_rows

GRIDS = [(1, 1), (2, 2), (3, 5), (4, 6), (5, 5), (1, 7), (7, 1)]
HIDDEN = 4


def rows_of(grid: tuple[int, int], before: int = 3, behind: int = 4, counts: bool = False) -> Rows:
    """Random rows as splice selects them: some of the prompt's and a marker, the picture, a marker and the rest."""
    lines, columns = grid
    rng = np.random.default_rng(lines * 10 + columns)
    count = before + 1 + lines * columns + 1 + behind
    image, text = torch.zeros(2, count, dtype=torch.bool)
    image[before + 1 : before + 1 + lines * columns] = True
    text[:before] = text[count - behind :] = True
    stands = torch.tensor(rng.integers(1, 5, count), dtype=torch.float32) if counts else None
    states = torch.tensor(rng.normal(size=(count, HIDDEN)), dtype=torch.float32)
    return Rows(states, text, image, before, 2, grid, stands)


def naive(rows: Rows, size: int) -> tuple[list[np.ndarray], list[int], tuple[int, int]]:
    """The means, how many rows went into each, and the new grid: row by row, column by column."""
    lines, columns = rows.grid
    picture = rows.states[rows.image].double().numpy().reshape(lines, columns, -1)
    means, counts = [], []
    for line in range(0, lines, size):
        for column in range(0, columns, size):
            cell = [
                picture[i, j]
                for i in range(line, min(line + size, lines))
                for j in range(column, min(column + size, columns))
            ]
            means.append(sum(cell) / len(cell))
            counts.append(len(cell))
    return means, counts, (-(-lines // size), -(-columns // size))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("size", [2, 3])
def test_means_of_neighbours(grid: tuple[int, int], size: int) -> None:
    rows = rows_of(grid)
    merged = merge_image_rows(rows, size, counted=True)
    means, counts, new = naive(rows, size)
    assert merged.grid == new
    np.testing.assert_allclose(merged.states[merged.image].numpy(), np.stack(means), rtol=1e-5, atol=1e-6)
    assert merged.counts[merged.image].tolist() == counts
    assert float(merged.counts[merged.image].sum()) == grid[0] * grid[1], "together they stand for the whole picture"


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_all_other_rows_stay_where_they_are(grid: tuple[int, int]) -> None:
    rows = rows_of(grid)
    merged = merge_image_rows(rows, 2, counted=True)
    assert torch.equal(merged.states[~merged.image], rows.states[~rows.image])
    assert torch.equal(merged.text[~merged.image], rows.text[~rows.image])
    assert not merged.text[merged.image].any()
    assert (merged.head, merged.tail) == (rows.head, rows.tail)
    assert int(merged.image.nonzero()[0]) == int(rows.image.nonzero()[0])
    assert int(merged.image.nonzero()[-1] - merged.image.nonzero()[0]) == int(merged.image.sum()) - 1
    assert (merged.counts[~merged.image] == 1).all()


def test_each_mean_stands_for_itself_where_nothing_is_counted() -> None:
    rows = rows_of((4, 6))
    merged = merge_image_rows(rows, 2)
    assert merged.stands_for is None
    assert (merged.counts == 1).all()
    assert len(merged.counts) == len(merged.states)


@pytest.mark.parametrize("size", [0, 1])
def test_a_size_of_one_changes_nothing(size: int) -> None:
    rows = rows_of((3, 5))
    assert merge_image_rows(rows, size, counted=True) is rows


def test_rows_without_a_picture_stay_as_they_are() -> None:
    rows = rows_of((3, 5))
    text = rows.keep(rows.text)
    assert merge_image_rows(text, 2, counted=True) is text


def test_a_picture_of_equal_rows_stays_that_colour() -> None:
    rows = rows_of((5, 7))
    rows.states[rows.image] = torch.tensor([1.0, -2.0, 0.5, 3.0])
    merged = merge_image_rows(rows, 3)
    assert torch.allclose(merged.states[merged.image], torch.tensor([1.0, -2.0, 0.5, 3.0]))


def test_a_picture_of_which_rows_are_gone_is_no_grid() -> None:
    with pytest.raises(ValueError, match="14 image rows are not a grid of 3 × 5"):
        merge_image_rows(drop_image_rows(rows_of((3, 5)), 1, 0), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_keep_their_dtype(dtype: torch.dtype) -> None:
    rows = rows_of((3, 5))
    small = Rows(rows.states.to(dtype), rows.text, rows.image, rows.head, rows.tail, rows.grid)
    merged = merge_image_rows(small, 2, counted=True)
    assert merged.states.dtype == dtype
    means = np.stack(naive(small, 2)[0])
    np.testing.assert_allclose(merged.states[merged.image].float().numpy(), means, rtol=0.03, atol=0.03)


# --- dropout


@pytest.mark.parametrize("dropped", [1, 7, 14])
@pytest.mark.parametrize("size", [1, 2])
def test_the_rows_that_are_left_stand_for_all(dropped: int, size: int) -> None:
    rows = merge_image_rows(rows_of((6, 5)), size, counted=True)
    dropped = min(dropped, int(rows.image.sum()) - 1)
    left = drop_image_rows(rows, dropped, 3, counted=True)
    assert int(left.image.sum()) == int(rows.image.sum()) - dropped
    assert float(left.counts[left.image].sum()) == pytest.approx(30.0)
    assert (left.counts[~left.image] == 1).all()


def test_a_row_that_stood_for_more_still_does() -> None:
    """Each that is left is multiplied alike."""
    rows = merge_image_rows(rows_of((5, 5)), 2, counted=True)
    kept = drop_image_rows(rows, 4, 3)
    counted = drop_image_rows(rows, 4, 3, counted=True)
    assert torch.equal(kept.states, counted.states)
    factor = counted.counts[counted.image] / kept.counts[kept.image]
    assert torch.allclose(factor, factor[:1].expand_as(factor))
    assert float(factor[0]) == pytest.approx(25.0 / float(kept.counts[kept.image].sum()))


def test_dropout_without_counting_leaves_counts_alone() -> None:
    assert drop_image_rows(rows_of((3, 5)), 4, 0).stands_for is None
    left = drop_image_rows(rows_of((3, 5), counts=True), 4, 0)
    assert len(left.counts) == len(left.states)
