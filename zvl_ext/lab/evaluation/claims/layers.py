"""Findings about the hidden layer."""

from __future__ import annotations

from ....intervals import sign
from ..experiments import TEXT
from ..table import Table, difference
from .claim import FAILS, HOLDS, Judged, by_signs, in_part, signed, signed_list


def penultimate_is_best(table: Table) -> Judged:
    lines, met = [], []
    for alpha, rows in table.varied("layer", "blend text").items():
        nearest = min(rows, key=lambda layer: rows[layer].metric("distance").mean())
        gap = difference(rows["-2"], rows[nearest], "distance")
        lines.append(f"alpha {alpha:g}: nearest to real pictures is layer {nearest}, layer -2 is {signed(gap)} further")
        met.append(sign(gap) <= 0)
    return "; ".join(lines), in_part(met)


def recommended_is_cleaner(table: Table) -> Judged:
    lines, signs = [], []
    recommended = str(TEXT["hidden_layer"])
    for alpha, rows in table.varied("layer", "blend text").items():
        gaps = {name: difference(rows["-2"], rows[recommended], name) for name in ("distance", "neither")}
        lines.append(f"alpha {alpha:g}, layer -2 minus layer {recommended}: {signed_list(gaps)}")
        signs += [sign(gap) for gap in gaps.values()]
    return "; ".join(lines), by_signs(signs)


def early_layers_lose_the_specific(table: Table) -> Judged:
    by_alpha = table.varied("layer", "blend text")
    alpha = max(by_alpha)
    early, late = (by_alpha[alpha][layer] for layer in ("-7", "-2"))
    gaps = {name: difference(early, late, name) for name in ("adherence", "similarity", "neither")}
    numbers = f"layer -7 minus layer -2 at alpha {alpha:g}: {signed_list(gaps)}"
    return numbers, HOLDS if sign(gaps["similarity"]) < 0 else FAILS
