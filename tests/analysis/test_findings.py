"""The published findings' table comes out of planted rows: a sink, the spreads and the correlations that they give."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from zvl_ext.analysis.layers import Layer
from zvl_ext.analysis.measuring import VISION, Analysis, Kind, against
from zvl_ext.analysis.tables import tables
from zvl_ext.mixing.statistics import moments

HIDDEN, PROMPTS, LENGTH = 2560, 20, 30
MASSIVE = {4: 2689.6, 396: 927.6, 1100: 0.0}  # dimensions whose spread position 0 makes; the last fills up to 61.1


def solved(of: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a function that rises, or falls, has a value."""
    rises = of(high) > of(low)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (of(middle) < wanted) == rises else (low, middle)
    return low


def overall(spreads: np.ndarray, rows: int, first: float = 0.0) -> float:
    """The standard deviation of all values of so many rows of these, a share of them `first` rows: what is 0 but there
    has a mean of its own."""
    means = np.where(np.isin(np.arange(HIDDEN), list(MASSIVE)), spreads * np.sqrt(first / (1 - first)), 0.0)
    return float(np.sqrt(((spreads**2).mean() + means.var()) * (1 - 1 / rows)))


def with_spreads(spreads: np.ndarray, count: int, first: np.ndarray, seed: int) -> torch.Tensor:
    """Rows whose dimensions have exactly these standard deviations and means of 0; those of MASSIVE are spread by
    the rows `first` alone, and are close to 0 in all others."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, HIDDEN))
    if first.any():
        for dimension in MASSIVE:
            rows[:, dimension] = 1e-4 * rows[:, dimension] + first
    middle = np.where(first.any() & np.isin(np.arange(HIDDEN), list(MASSIVE)), 0.0, rows.mean(0))
    rows = (rows - middle) / rows.std(0, ddof=1) * spreads
    return torch.tensor(rows, dtype=torch.float32)


@pytest.fixture(scope="module")
def planted() -> Analysis:
    random = np.random.default_rng(0)
    text = 6.0 * random.uniform(0.8, 1.2, HIDDEN)
    for dimension, value in MASSIVE.items():
        text[dimension] = value
    text[1100] = solved(lambda x: overall(np.where(np.arange(HIDDEN) == 1100, x, text), 600, 1 / LENGTH), 61.1, 0, 5000)

    def correlation(spreads: np.ndarray) -> float:
        return float(np.corrcoef(text, spreads)[0, 1])

    def at(spreads: np.ndarray, value: float) -> np.ndarray:
        return np.where(np.arange(HIDDEN) == 396, value, spreads)

    words = at(text, solved(lambda x: -correlation(at(text, x)), -0.999, text[396], 3 * text[396]))
    words *= 47.8 / overall(words, 200, 1 / 200)

    noise = np.abs(random.normal(size=HIDDEN))

    def image(level: float, strength: float) -> np.ndarray:
        spreads = level + strength * noise
        spreads[[4, 396, 1100]] = 64.1, 1.5, 30.0
        return spreads

    def level(strength: float) -> float:
        return solved(lambda x: overall(image(x, strength), 200), 7.0, 0.01, 10)

    strength = solved(lambda x: -correlation(image(level(x), x)), -0.737, 0.001, 6)
    picture = image(level(strength), strength)

    first = np.zeros(PROMPTS * LENGTH)
    first[::LENGTH] = 1
    every = with_spreads(text, len(first), first, 1)
    ordinary = every[torch.tensor(first == 0)]
    taken = Layer(moments(every), moments(ordinary), 1.0, 1.0)
    kinds = []
    for name, spreads, seed, holds_first in (
        ("text rows", words, 2, True), ("image rows", picture, 3, False), (VISION, np.full(HIDDEN, 0.57), 4, False)
    ):  # fmt: skip
        spikes = np.zeros(200)
        spikes[0] = holds_first
        rows = with_spreads(spreads, 200, spikes, seed)
        own = rows[1:] if holds_first else rows
        kinds.append(
            Kind(
                name,
                against(taken.whole, rows),
                against(taken.ordinary, own),
                rows.norm(dim=1).tolist(),
                list(range(200)),
            )
        )
    narrow = Kind("another width", *[against(taken.whole, torch.randn(5, 64))] * 2, [1.0], [0])
    prompt = Kind("this prompt's text embeddings", *[against(taken.whole, every[:LENGTH])] * 2, [1.0], [0])
    return Analysis({}, taken, "-2", PROMPTS, prompt, (*kinds, narrow), (), 0.3, "global")


def rows_of(found: Analysis, title: str) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    (table,) = (table for table in tables(found) if table.title == title)
    rows: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for row in table.rows:
        rows.setdefault((row[0], row[1]), []).append(row[2:])
    return rows


def test_the_findings_table_comes_out(planted: Analysis) -> None:
    """Global std and correlation of: the text encoder 61.1, 1.000; text rows 47.8, 0.999; image rows 7.0, 0.737; the
    vision tower 0.57."""
    rows = rows_of(planted, "Qwen3-VL against the text encoder")
    (encoder,) = rows["text encoder, 20 prompts, layer -2", "with"]
    assert encoder[:3] == ("600", "61.1", "1.000 (reference)")
    found = {name: rows[name, "with"][0][1:3] for name in ("text rows", "image rows", VISION)}
    assert found["text rows"] == ("47.8", "0.999")
    assert found["image rows"] == ("7.0", "0.737")
    assert found[VISION][0] == "0.57"
    assert rows["another width", "with"][0][2:] == ("–",) * 4


def test_the_worst_dimensions_say_which_side_is_the_large_one(planted: Analysis) -> None:
    """In dimension 396 the text encoder's std is 927.6 and the image rows' 1.5: the image rows lack it."""
    worst = rows_of(planted, "Worst dimensions")["image rows", "with"]
    assert worst[0] == ("396", "927.6", "1.5", "618x", "too small")
    assert ("4", "2689.6", "64.1", "42x", "too small") in worst
    (row,) = rows_of(planted, "Qwen3-VL against the text encoder")["image rows", "with"]
    assert row[4] == "618x, too small"


def test_without_position_0_the_massive_dimensions_are_ordinary(planted: Analysis) -> None:
    rows = rows_of(planted, "Qwen3-VL against the text encoder")
    (encoder,) = rows["text encoder, 20 prompts, layer -2", "without"]
    assert float(encoder[1]) == pytest.approx(6.0, abs=0.4)
    worst = rows_of(planted, "Worst dimensions")["image rows", "without"]
    assert [direction for *_, direction in worst] == ["too large"] * 3, "what the sink had hidden"


def test_tables_are_whole_for_terminals_and_pages(planted: Analysis) -> None:
    for table in tables(planted):
        assert all(len(row) == len(table.head) for row in table.rows), table.title
        assert all(len(line) == len(table.head) for line in table.heat)
        lines = table.text().splitlines()
        assert len(lines) == len(table.rows) + 2 + bool(table.note)
        assert table.html().count("<tr>") == len(table.rows) + 1
