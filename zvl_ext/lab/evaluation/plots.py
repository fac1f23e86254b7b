"""The evidence as plots. matplotlib is the optional extra `evidence`."""

from __future__ import annotations

import contextlib
import itertools
import os
from typing import TYPE_CHECKING, Any

from ..miniature.world import JUDGED
from .experiments import BLOCKS, CURVES, NAMED, ROLES, WEIGHT_CURVES, WINDOWS

if TYPE_CHECKING:
    from .table import Entry, Table

# Colours of Okabe and Ito, which the colour-blind tell apart; blend in solid lines, splice in dashed ones.
_COLOURS = ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#B8A800", "#CC79A7", "#000000")
_STYLES = {
    name: {"color": colour, "linestyle": "--" if name.startswith("splice") else "-"}
    for name, colour in zip(CURVES, itertools.cycle(_COLOURS))
}


def draw(table: Table, out: str) -> list[str]:
    """Write the plots that the table has rows for.

    Returns:
        Their file names.

    Raises:
        ImportError: without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "figure.dpi": 130,
        }
    )
    drawn = []
    every = {
        "weight.png": _weight,
        "blocks.png": _blocks,
        "roles.png": _roles,
        "trade_off.png": _trade_off,
        "alpha.png": _alpha,
        "layers.png": _layers,
    }
    for name, make in every.items():
        figure = make(plt, table)
        if figure is not None:
            # Without the date and the version that matplotlib would write: the same numbers give the same file.
            figure.savefig(os.path.join(out, name), bbox_inches="tight", metadata={"Software": None})
            plt.close(figure)
            drawn.append(name)
    return drawn


def _curves(table: Table) -> dict[str, list[Entry]]:
    from .table import Missing

    found = {}
    for name in CURVES:
        try:
            found[name] = table.curve(name)
        except Missing:
            continue
    return found


def _bars(intervals: list[tuple[float, float, float]]) -> Any:
    """Error bars as matplotlib takes them, [2, points]."""
    return [[mean - low for mean, low, _ in intervals], [high - mean for mean, _, high in intervals]]


def _line(axes: Any, x: list[float], intervals: list[tuple[float, float, float]], **style: Any) -> None:
    from matplotlib.colors import to_rgba

    faint = to_rgba(style["color"], 0.4)
    axes.errorbar(
        x,
        [mean for mean, _, _ in intervals],
        yerr=_bars(intervals),
        marker="o",
        markersize=3,
        linewidth=1.4,
        elinewidth=0.8,
        ecolor=faint,
        **style,
    )


def _compared(axes: Any, table: Table) -> None:
    """The baselines as points of similarity and adherence."""
    markers = {"caption": ("s", "#444444"), "img2img": ("^", "#777777"), "adapter": ("*", "#882255")}
    for how, (marker, colour) in markers.items():
        points = [entry for entry in table.part("baselines") if entry.row.how == how]
        if how == "adapter":
            points.sort(key=lambda entry: entry.row.alpha)
        for i, entry in enumerate(points):
            similar, follows = entry.interval("similarity"), entry.interval("adherence")
            label = (
                {"caption": "caption of the reference", "img2img": "img2img", "adapter": "trained adapter"}[how]
                if i == 0
                else None
            )
            size = 10 if marker == "*" else 6
            bars = {"xerr": _bars([similar]), "yerr": _bars([follows]), "elinewidth": 0.8}
            axes.errorbar([similar[0]], [follows[0]], fmt=marker, color=colour, markersize=size, label=label, **bars)
            short = {
                "caption": entry.row.values.get("written"),
                "img2img": f"{1 - entry.row.alpha:g}",
                "adapter": f"{entry.row.alpha:g}",
            }[how]
            axes.annotate(
                short, (similar[0], follows[0]), textcoords="offset points", xytext=(6, 4), fontsize=7, color=colour
            )


def _weight(plt: Any, table: Table) -> Any:
    """The trade-off over weight beside the baselines, and both measures over weight."""
    from .table import Missing

    curves = {}
    for name in WEIGHT_CURVES:
        try:
            curves[name] = [(w, entry) for w, entry in table.by_weight(name) if w >= 0.01]
        except Missing:
            continue
    if not any(curves.values()):
        return None
    figure, (trade, over) = plt.subplots(1, 2, figsize=(11.5, 4.6))
    for (name, points), colour in zip(curves.items(), _COLOURS[::2]):
        similar, follows = ([entry.interval(m) for _, entry in points] for m in ("similarity", "adherence"))
        weights = [w for w, _ in points]
        _line(trade, [mean for mean, _, _ in similar], follows, xerr=_bars(similar), label=name, color=colour)
        if name == next(iter(curves)):
            for w, x, y in zip(weights, similar, follows):
                trade.annotate(
                    f"{w:g}", (x[0], y[0]), textcoords="offset points", xytext=(5, 5), fontsize=7, color=colour
                )
        _line(over, weights, similar, label=f"{name}: similarity", color=colour)
        _line(over, weights, follows, label=f"{name}: adherence", color=colour, linestyle=":")
    _compared(trade, table)
    trade.plot([0, 1], [1, 0], color="#bbbbbb", linewidth=0.8, linestyle=":")
    trade.set(xlabel="reference similarity", ylabel="prompt adherence", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    trade.set_title("Prompt against reference: each curve runs over weight", fontsize=10)
    over.set(xlabel="weight", ylim=(-0.03, 1.03))
    over.set_title("Similarity (solid) and adherence (dotted) over weight", fontsize=10)
    trade.legend(fontsize=7.5, frameon=False)
    figure.tight_layout()
    return figure


def _blocks(plt: Any, table: Table) -> Any:
    """Which of the reference's attributes blocks and steps take over."""
    from .table import Missing

    named = ["early", "middle", "late", *map(str, range(BLOCKS))]
    panels = {"blocks": ["all", *named], "steps": [f"{a:g} to {b:g}" for a, b in WINDOWS]}
    found: dict[str, list[tuple[str, Entry]]] = {}
    for part, values in panels.items():
        try:
            (by_value,) = table.varied(part, "splice, sequential").values()
        except Missing:
            continue
        found[part] = [(value, by_value[value]) for value in values if value in by_value]
    if not found:
        return None
    figure, drawn = plt.subplots(1, len(found), figsize=(5.8 * len(found), 3.8), sharey=True, squeeze=False)
    for axes, (part, rows) in zip(drawn[0], found.items()):
        _by_attribute(axes, rows)
        axes.set_title(f"The reference's values that {part} take over, weight 1", fontsize=10)
    drawn[0][-1].legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    return figure


def _by_attribute(axes: Any, rows: list[tuple[str, Entry]]) -> None:
    """Bars of the reference's values in the pictures, by attribute."""
    for k, (name, colour) in enumerate(zip(JUDGED, _COLOURS[::2])):
        intervals = [entry.interval(f"reference {name}") for _, entry in rows]
        places = [i + 0.2 * (k - 1.5) for i in range(len(rows))]
        axes.bar(places, [mean for mean, _, _ in intervals], 0.2, yerr=_bars(intervals), color=colour, label=name,
                 error_kw={"elinewidth": 0.7, "ecolor": "#555555"})  # fmt: skip
    axes.set_xticks(range(len(rows)), [value for value, _ in rows], rotation=30, ha="right")


def _roles(plt: Any, table: Table) -> Any:
    """Which of the reference's attributes settings take over, where the prompt names some of them."""
    from .table import Missing

    found: dict[str, list[tuple[str, Entry]]] = {}
    for names in NAMED:
        with contextlib.suppress(Missing):
            rows = table.varied("roles", f"prompt names the {names}")
            by_value = {value: entry for entries in rows.values() for value, entry in entries.items()}
            found[names] = [(value, by_value[value]) for value in ("prompt alone", *ROLES) if value in by_value]
    if not found:
        return None
    figure, drawn = plt.subplots(len(found), 1, figsize=(11, 3.9 * len(found)), sharey=True, squeeze=False)
    for axes, (names, rows) in zip(drawn[:, 0], found.items()):
        _by_attribute(axes, rows)
        axes.set_title(f"The reference's values in the pictures, where the prompt names the {names}", fontsize=10)
    drawn[0][0].legend(fontsize=8, frameon=False, loc="upper left")
    figure.tight_layout()
    return figure


def _trade_off(plt: Any, table: Table) -> Any:
    curves = _curves(table)
    if not curves:
        return None
    figure, axes = plt.subplots(figsize=(7.6, 5.2))
    for name, curve in curves.items():
        similar, follows = ([entry.interval(m) for entry in curve] for m in ("similarity", "adherence"))
        _line(axes, [mean for mean, _, _ in similar], follows, xerr=_bars(similar), label=name, **_STYLES[name])
    _compared(axes, table)
    axes.plot([0, 1], [1, 0], color="#bbbbbb", linewidth=0.8, linestyle=":")
    axes.set(xlabel="reference similarity", ylabel="prompt adherence", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.set_title("Prompt against reference: each curve runs over alpha, from the prompt alone", fontsize=10)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def _alpha(plt: Any, table: Table) -> Any:
    curves = _curves(table)
    if not curves:
        return None
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6))
    titles = {
        "adherence": "prompt adherence",
        "similarity": "reference similarity",
        "distance": "distance to real pictures",
    }
    for axes, (measure, title) in zip(panels, titles.items()):
        for name, curve in curves.items():
            _line(
                axes,
                [entry.row.alpha for entry in curve],
                [entry.interval(measure) for entry in curve],
                label=name,
                **_STYLES[name],
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("alpha")
        if measure != "distance":
            axes.set_ylim(-0.03, 1.03)
    panels[-1].axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="lower center",
        ncol=4,
        frameon=False,
        fontsize=8,
        bbox_to_anchor=(0.5, -0.14),
    )
    figure.tight_layout()
    return figure


def _layers(plt: Any, table: Table) -> Any:
    from .table import Missing

    bases = []
    for base in ("blend text", "blend image", "splice all + insert"):
        try:
            bases.append((base, table.varied("layer", base)))
        except Missing:
            continue
    if not bases:
        return None
    figure, panels = plt.subplots(1, len(bases), figsize=(3.7 * len(bases), 3.6), sharey=True, squeeze=False)
    for axes, (base, by_alpha) in zip(panels[0], bases):
        for alpha, style in zip(by_alpha, (":", "-") if len(by_alpha) > 1 else ("-",)):
            rows = sorted(by_alpha[alpha].items(), key=lambda item: int(item[0]))
            for measure, colour in (("adherence", "#0072B2"), ("similarity", "#D55E00"), ("neither", "#777777")):
                intervals = [entry.interval(measure) for _, entry in rows]
                label = measure if style == "-" else None
                _line(axes, [int(layer) for layer, _ in rows], intervals, color=colour, linestyle=style, label=label)
        which = (
            " and ".join(f"{alpha:g} ({kind})" for alpha, kind in zip(by_alpha, ("dotted", "solid")))
            if len(by_alpha) > 1
            else f"{alpha:g}"
        )
        axes.set_title(f"{base}\nalpha {which}", fontsize=10)
        axes.set_xlabel("hidden layer (-1: after the last)")
        axes.set_ylim(-0.03, 1.03)
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="lower center",
        ncol=3,
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(0.5, -0.06),
    )
    figure.tight_layout()
    return figure
