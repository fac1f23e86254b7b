"""Findings about the hidden states' sizes: normalization, spreads of single dimensions, and the attention sink."""

from __future__ import annotations

from ....intervals import Interval, sign
from ..table import Table, difference
from .claim import (
    BY_SINK,
    FAILS,
    HOLDS,
    NOT_BY_SINK,
    NOTHING_TO_EXPLAIN,
    PARTLY,
    Judged,
    by_signs,
    normalizations,
    signed,
    signed_list,
)


def _per_dim_minus_global(table: Table, positions: str) -> tuple[str, dict[str, Interval]]:
    rows = normalizations(table, positions, 0.7)
    measures = ("adherence", "similarity", "neither", "distance")
    gaps = {name: difference(rows["per_dim"], rows["global"], name) for name in measures}
    alpha = rows["global"].row.alpha
    return f"{positions} positions, per_dim minus global at alpha {alpha:g}: {signed_list(gaps)}", gaps


def image_needs_per_dim(table: Table) -> Judged:
    numbers, gaps = _per_dim_minus_global(table, "image")
    return numbers, by_signs([sign(gaps[name]) for name in ("neither", "distance")], -1)


def text_needs_no_per_dim(table: Table) -> Judged:
    numbers, gaps = _per_dim_minus_global(table, "text")
    return numbers, FAILS if -1 in [sign(gaps[name]) for name in ("neither", "distance")] else HOLDS


def per_dim_by_sink(table: Table) -> Judged:
    rows = normalizations(table, "image", 0.7)
    per_dim, sink_aware = (difference(rows[name], rows["global"], "neither") for name in ("per_dim", "sink_aware"))
    rest = difference(rows["per_dim"], rows["sink_aware"], "neither")
    numbers = (
        f"neither's values at alpha {rows['global'].row.alpha:g}: per_dim minus global {signed(per_dim)}, "
        f"sink_aware minus global {signed(sink_aware)}, per_dim minus sink_aware {signed(rest)}"
    )
    if sign(per_dim) >= 0:
        return numbers, NOTHING_TO_EXPLAIN
    if sign(sink_aware) < 0:
        return numbers, BY_SINK if sign(rest) >= 0 else f"{BY_SINK} in part"
    return numbers, NOT_BY_SINK


def spreads_of_dimensions(table: Table) -> Judged:
    compared = table.statistics["compared"]
    text, image = (compared[f"{where} positions, layer -2"]["with position 0"] for where in ("text", "image"))
    worst = ", ".join(str(dimension) for dimension, _ in image["worst_dimensions"][:2])
    numbers = (
        f"text positions {text['correlation']:.3f}, worst ratio {text['worst_ratio']:.3g}; image positions "
        f"{image['correlation']:.3f}, worst ratio {image['worst_ratio']:.3g} (dimensions {worst})"
    )
    high, lower = text["correlation"] > 0.99, image["correlation"] < text["correlation"] - 0.1
    return numbers, HOLDS if high and lower and image["worst_ratio"] > 10 else PARTLY if lower else FAILS


def outliers_by_sink(table: Table) -> Judged:
    image = table.statistics["compared"]["image positions, layer -2"]
    before, after = image["with position 0"], image["without position 0"]
    numbers = (
        f"image positions with position 0 in the text's statistics: worst ratio {before['worst_ratio']:.3g}, "
        f"{before['outliers']} dimensions over 10×; without it: {after['worst_ratio']:.3g}, {after['outliers']}; "
        f"correlation {before['correlation']:.3f} and {after['correlation']:.3f}"
    )
    if before["worst_ratio"] <= 10:
        return numbers, NOTHING_TO_EXPLAIN
    return numbers, BY_SINK if after["worst_ratio"] < before["worst_ratio"] / 3 else NOT_BY_SINK
