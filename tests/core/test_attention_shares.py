"""Shares of attention against plain softmax in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zvl_ext.attention_shares import NOBODY, AttentionShares, groups_of, shares

HEADS, QUERIES, KEYS, WIDTH = 3, 7, 11, 8
GROUPS = np.array([0, 0, 1, 1, 1, -1, 2, 2, -1, 0, -1])


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32).astype(np.float64)


def by_hand(query: np.ndarray, key: np.ndarray, bias: np.ndarray | float = 0.0, scale: float | None = None) -> list:
    totals = np.zeros(3)
    for head in range(len(query)):
        for i, row in enumerate(query[head]):
            logits = np.array([row @ k for k in key[head * len(key) // len(query)]]) * (scale or 1 / math.sqrt(WIDTH))
            weights = np.exp(logits + np.broadcast_to(bias, (len(query), QUERIES, KEYS))[head, i])
            for group in range(3):
                totals[group] += weights[group == GROUPS].sum() / weights.sum()
    return totals / (len(query) * QUERIES)


def measured(query: np.ndarray, key: np.ndarray, **more) -> list[float]:
    q, k = (torch.tensor(v, dtype=torch.float32) for v in (query, key))
    return shares(q, k, torch.tensor(GROUPS), 3, **more).tolist()


@pytest.mark.parametrize("logits", [1, HEADS * KEYS * 2, 10**6])
def test_shares_are_sums_of_softmax_weights_however_many_queries_at_a_time(logits):
    query, key = numbers(HEADS, QUERIES, WIDTH), numbers(HEADS, KEYS, WIDTH, seed=1)
    assert measured(query, key, logits=logits) == pytest.approx(by_hand(query, key), rel=1e-5)
    assert measured(query, key, scale=0.1) == pytest.approx(by_hand(query, key, scale=0.1), rel=1e-5)


def test_heads_may_share_keys():
    query, key = numbers(4, QUERIES, WIDTH), numbers(2, KEYS, WIDTH, seed=1)
    assert measured(query, key) == pytest.approx(by_hand(query, key), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, KEYS), (HEADS, 1, KEYS), (1, QUERIES, KEYS), (HEADS, QUERIES, KEYS)], ids=str)
def test_what_is_added_to_the_logits_counts(shape):
    """Adding log w to a group's logits multiplies its weights by w, before the sum is made one again."""
    query, key, bias = numbers(HEADS, QUERIES, WIDTH), numbers(HEADS, KEYS, WIDTH, seed=1), numbers(*shape, seed=2)
    got = measured(query, key, bias=torch.tensor(bias, dtype=torch.float32), logits=HEADS * KEYS)
    assert got == pytest.approx(by_hand(query, key, bias), rel=1e-5)


def test_hidden_keys_get_nothing():
    query, key = numbers(HEADS, QUERIES, WIDTH), numbers(HEADS, KEYS, WIDTH, seed=1)
    hidden = np.where(GROUPS == 1, -np.inf, 0.0)[None, None]
    got = measured(query, key, bias=torch.tensor(np.isfinite(hidden)))
    assert got == pytest.approx(by_hand(query, key, hidden), rel=1e-5)
    assert got[1] == 0.0


def test_equal_logits_give_each_group_its_number_of_keys():
    query = np.zeros((HEADS, QUERIES, WIDTH))
    assert measured(query, numbers(HEADS, KEYS, WIDTH)) == pytest.approx([3 / 11, 3 / 11, 2 / 11])


def test_a_caption_stands_where_it_begins_and_the_rest_is_nobodys():
    assert groups_of(torch.tensor([0, 1, -1]), 7, start=2).tolist() == [NOBODY, NOBODY, 0, 1, -1, NOBODY, NOBODY]


def test_several_measurements_of_a_step_are_averaged_and_missing_ones_are_no_numbers():
    found = AttentionShares(1, blocks=2)
    assert not found.whole
    for step, block, value in ((0, 0, 0.2), (0, 0, 0.4), (0, 1, 0.5), (3, 1, 0.1)):
        found.add(step, block, torch.tensor([0.0, value]))
    (first, missing), second = found.of(1)
    assert [first, *second] == pytest.approx([0.3, 0.5, 0.1])
    assert math.isnan(missing)
    assert not found.whole
    found.add(3, 0, torch.tensor([0.0, 0.7]))
    assert found.whole
