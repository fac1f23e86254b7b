"""What the weight promises: a dial without a jump, and what blocks, steps, merging and dropout do beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from ....intervals import bootstrap, sign
from ....presets import START
from ...miniature.world import JUDGED
from ..experiments import WEIGHT_CURVES
from ..table import Entry, Missing, Table, difference, with_interval
from .claim import FAILS, HOLDS, NOT_SHOWN, SHOWN, Judged, in_part, signed

AT_LEAST = {"adherence": 0.5, "similarity": 0.25}  # of the fresh panel's preset
TENDS = 0.01  # how far from plain, as a share of the distance at weight 1, the smallest weight may be
KEPT = 0.9  # of the similarity, when neighbours are merged


def dials_the_reference(table: Table) -> Judged:
    lines, met = [], []
    for name in WEIGHT_CURVES:
        points = table.by_weight(name)
        entries = [entry for _, entry in points]
        falls = [
            f"{before:g} to {after:g}"
            for (before, a), (after, b) in itertools.pairwise(points)
            if sign(difference(b, a, "similarity")) < 0
        ]
        rise = difference(entries[-1], entries[0], "similarity")
        curve = ", ".join(f"{entry.metric('similarity').mean():.2f} at {weight:g}" for weight, entry in points)
        lines.append(f"{name}: similarity {curve}{'; clearly falls from ' + ', '.join(falls) if falls else ''}")
        met.append(not falls and sign(rise) > 0)
    return "; ".join(lines), SHOWN if all(met) else NOT_SHOWN


def tends_to_plain(table: Table) -> Judged:
    lines, met = [], []
    for name in WEIGHT_CURVES:
        moved = {weight: float(entry.metric("moved").mean()) for weight, entry in table.by_weight(name)}
        least = min(moved)
        lines.append(f"{name}: {moved[least]:.3f} at {least:g}, {moved[1.0]:.1f} at 1")
        met.append(moved[least] <= TENDS * moved[1.0])
    return "mean pixel distance to the plain picture, " + "; ".join(lines), SHOWN if all(met) else NOT_SHOWN


def start_is_balanced(table: Table) -> Judged:
    entry = table.named("presets", START)
    got = {name: entry.interval(name) for name in AT_LEAST}
    numbers = ", ".join(f"{name} {with_interval(interval)}" for name, interval in got.items())
    met = all(got[name][0] >= least for name, least in AT_LEAST.items())
    return f"{START}: {numbers}", SHOWN if met else NOT_SHOWN


def merging_keeps_similarity(table: Table) -> Judged:
    lines, met = [], []
    weight = table.named("presets", START).row.values["weight"]
    (rows,) = table.varied("merge", f"weight {weight:g}").values()
    whole = float(rows["1"].metric("similarity").mean())
    for merge in ("2", "3"):
        gap = difference(rows[merge], rows["1"], "similarity")
        share = float(rows[merge].metric("similarity").mean()) / max(whole, 1e-9)
        lines.append(f"merge {merge}: {share:.2f} of it ({signed(gap)})")
        met.append(share >= KEPT)
    return f"at weight {weight:g}, similarity unmerged {whole:.2f}; " + ", ".join(lines), (HOLDS if met[0] else FAILS)


def divides(table: Table, part: str, values: Iterable[str]) -> Judged:
    """Whether parts of the blocks or steps take over different attributes: one leads here, another there."""
    (rows,) = table.varied(part, "splice, sequential").values()
    entries: dict[str, Entry] = {value: rows[value] for value in values if value in rows}
    if len(entries) < 2:
        raise Missing(part)
    taken = {
        value: ", ".join(f"{name} {entry.metric(f'reference {name}').mean():.2f}" for name in JUDGED)
        for value, entry in entries.items()
    }
    leads: set[tuple[str, str]] = set()
    for name in JUDGED:
        for a, of_a in entries.items():
            for b, of_b in entries.items():
                if a != b and sign(difference(of_a, of_b, f"reference {name}")) > 0:
                    leads.add((a, b))
    both_ways = any((b, a) in leads for a, b in leads)
    numbers = "the reference's values: " + "; ".join(f"{value}: {shares}" for value, shares in taken.items())
    return numbers, HOLDS if both_ways else FAILS


def rows_count_for_what_is_gone(table: Table) -> Judged:
    (counted,) = table.varied("fewer rows", "they count for what is gone").values()
    (alone,) = table.varied("fewer rows", "they count for themselves").values()
    lines, met = [], []
    for share in ("0.5", "0.75", "0.95"):
        with_count, without = (difference(rows[share], counted["0.0"], "similarity") for rows in (counted, alone))
        lines.append(f"dropout {share}: {signed(with_count)} where they count, {signed(without)} where not")
        met.append(sign(with_count) >= 0 and sign(without) < 0)
    return "similarity against no dropout: " + "; ".join(lines), in_part(met)


def text_tokens_hardly_know_the_reference(table: Table) -> Judged:
    entries = {entry.row.name: entry for entry in table.part("reference swap")}
    if not entries:
        raise Missing("reference swap")
    lines, met = [], []
    for name, text in entries.items():
        engine, mode, *layer = name.split(" ")
        if mode != "text,":
            continue
        image = entries[" ".join((engine, "image,", *layer))]
        shares = [
            bootstrap(entry.metric("pictures") / np.maximum(entry.metric("others").mean(), 1e-9))
            for entry in (text, image)
        ]
        gap = difference(text, image, "pictures")
        lines.append(f"{engine}, {' '.join(layer)}: text {with_interval(shares[0])}, image {with_interval(shares[1])}")
        met.append(sign(gap) < 0 and shares[0][2] < 0.5)
    return "how far pictures move, as a share of how far two prompts' are apart: " + "; ".join(lines), in_part(met)
