"""Findings that compare the engines with each other and with what is no engine."""

from __future__ import annotations

import numpy as np

from ....intervals import LEVEL, Interval, resamples, sign
from ...miniature.world import ATTRIBUTES, JUDGED
from ..experiments import CURVES
from ..table import Entry, Missing, Table, difference, with_interval
from .claim import FAILS, HOLDS, PARTLY, PROMPT_ALONE, Judged, by_signs, in_part, signed, signed_list


def raw_tower_fails(table: Table) -> Judged:
    raw = [entry for entry in table.part("vision tower") if entry.row.alpha == 1.0]
    if not raw:
        raise Missing("vision tower")
    best = max(raw, key=lambda entry: entry.metric("similarity").mean())
    model = table.curve("blend image, per-dim")[-1]
    near, far = difference(model, best, "similarity"), difference(best, model, "distance")
    chance = float(np.mean([1 / len(ATTRIBUTES[name]) for name in JUDGED]))
    got = best.interval("similarity")
    distance, unlike = (with_interval(best.interval(name)) for name in ("distance", "unlike"))
    numbers = (
        f"best at alpha 1 is {best.row.name}: similarity {with_interval(got)} (chance {chance:.2f}), "
        f"distance {distance}, unlike {unlike}; the language model's image positions: similarity {signed(near)} more, "
        f"distance {signed(far)} less"
    )
    if got[1] <= chance:
        return numbers, HOLDS
    return numbers, PARTLY if sign(near) > 0 or sign(far) > 0 else FAILS


def trained_adapter_is_better(table: Table) -> Judged:
    adapters = [entry for entry in table.part("baselines") if entry.row.how == "adapter"]
    if not adapters:
        raise Missing("adapter")
    curve = [table.named(*PROMPT_ALONE), *sorted(adapters, key=lambda entry: entry.row.alpha)]
    lines, signs = [], []
    for name in CURVES:
        best = max(
            table.curve(name),
            key=lambda entry: (entry.metric("adherence") + entry.metric("similarity")).mean() if entry.row.alpha else 0,
        )
        gap = adherence_gap_at_same_similarity(curve, best)
        said = "the adapter is never as similar" if gap is None else signed(gap)
        lines.append(f"{name} at alpha {best.row.alpha:g}: {said}")
        signs.append(-1 if gap is None else sign(gap))
    return "the adapter's adherence at the same similarity, minus the setting's: " + "; ".join(lines), by_signs(signs)


def adherence_gap_at_same_similarity(curve: list[Entry], other: Entry) -> Interval | None:
    """How much higher the curve's adherence is than `other`'s, at `other`'s similarity.

    Between the curve's points both measures are interpolated.

    Returns:
        The gap with its bootstrap interval over pairs; None where the curve is nowhere as similar.
    """
    count = min(entry.row.pairs for entry in [*curve, other])
    chosen = np.concatenate([np.arange(count)[None], resamples(count)])  # the pairs themselves come first

    def means(entry: Entry, measure: str) -> np.ndarray:  # [resamples]
        return entry.metric(measure)[:count][chosen].mean(1)

    similar, follows = (
        np.stack([means(entry, measure) for entry in curve], 1) for measure in ("similarity", "adherence")
    )  # [resamples, points]
    wanted, there = (means(other, measure) for measure in ("similarity", "adherence"))
    if similar[0].max() < wanted[0]:
        return None
    # Of each resample: the first point that is as similar, and the one before it.
    reached = similar >= wanted[:, None]
    end = np.where(reached.any(1), reached.argmax(1), len(curve) - 1).clip(1)
    every = np.arange(len(chosen))
    before, after = similar[every, end - 1], similar[every, end]
    part = ((wanted - before) / np.maximum(after - before, 1e-9)).clip(0, 1)
    gaps = follows[every, end - 1] + part * (follows[every, end] - follows[every, end - 1]) - there
    low, high = np.quantile(gaps[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(gaps[0]), float(low), float(high)


def splice_is_cleaner(table: Table) -> Judged:
    lines, signs = [], []
    for splice, blend in (
        ("splice text", "blend text, sink-aware"),
        ("splice all + insert", "blend image, sink-aware"),
    ):
        of_splice, of_blend = (table.curve(name)[-1] for name in (splice, blend))
        gaps = {name: difference(of_splice, of_blend, name) for name in ("distance", "neither")}
        lines.append(f"{splice} minus {blend} at alpha 1: {signed_list(gaps)}")
        signs += [sign(gap) for gap in gaps.values()]
    return "; ".join(lines), by_signs(signs, -1)


def dropout_makes_seeds_differ(table: Table) -> Judged:
    plain = table.named("diversity", "splice all + insert", 1.0)
    lines, met = [], []
    for share in ("0.75", "0.85", "0.95"):
        gap = difference(table.named("diversity", f"splice all + insert, dropout {share}", 1.0), plain, "diversity")
        lines.append(f"dropout {share}: {signed(gap)}")
        met.append(sign(gap) > 0)
    return "diversity of seeds against no dropout: " + "; ".join(lines), in_part(met)
