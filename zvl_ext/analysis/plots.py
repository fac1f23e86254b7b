"""An analysis as plots. matplotlib is the optional extra `evidence`: where it is not there, tables are shown."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

from .measuring import Analysis
from .tables import by_layer

# Colours of Okabe and Ito, which the colour-blind tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_SIZE = (6.4, 3.8)  # inches


def drawn(found: Analysis) -> dict[str, bytes]:
    """PNG files by what they show; {} without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return {}
    made = {}
    for title, draw in _PLOTS.items():
        figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
        if draw(figure, found):
            file = io.BytesIO()
            # Without the version that matplotlib would write: the same numbers give the same file.
            figure.savefig(file, format="png", metadata={"Software": None})
            made[title] = file.getvalue()
    return made


def embedded(plots: dict[str, bytes]) -> str:
    """The plots as HTML that needs no other file."""
    return "".join(
        f"<img alt='{html.escape(title, quote=True)}' title='{html.escape(title, quote=True)}' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        for title, png in plots.items()
    )


def _axes(figure: Any, title: str, x: str, y: str) -> Any:
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _spreads(figure: Any, found: Analysis) -> bool:
    axes = _axes(figure, "Spread of each dimension", "text encoder's std", "std of the rows")
    seen = []
    for kind, colour in zip((k for k in found.kinds if k.name != "all rows"), _COLOURS):
        if kind.ordinary.spreads is not None:
            text, own = (each.clamp_min(1e-6).tolist() for each in kind.ordinary.spreads)
            axes.scatter(text, own, s=5, alpha=0.5, color=colour, label=kind.name, linewidths=0)
            seen += text
    if not seen:
        return False
    axes.plot([min(seen), max(seen)], [min(seen), max(seen)], color="grey", linewidth=1, label="alike")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=8, title="without position 0", title_fontsize=8)
    return True


def _ratios(figure: Any, found: Analysis) -> bool:
    axes = _axes(figure, "Std ratios, sorted", "dimension, by its ratio", "std of the rows / text encoder's")
    there = False
    for kind, colour in zip((k for k in found.kinds if k.name != "all rows"), _COLOURS):
        for part, style in ((kind.whole, ":"), (kind.ordinary, "-")):
            if len(part.ratios):
                label = f"{kind.name}{', with position 0' if style == ':' else ''}"
                axes.plot(part.ratios.tolist(), style, color=colour, linewidth=1.2, label=label)
                there = True
    if there:
        axes.set_yscale("log")
        axes.axhline(1.0, color="grey", linewidth=1)
        axes.legend(fontsize=8)
    return there


def _norms(figure: Any, found: Analysis) -> bool:
    axes = _axes(figure, "Row norms by position", "position", "norm of the row")
    for kind, colour in zip((found.prompt, *(k for k in found.kinds if k.name != "all rows")), _COLOURS):
        places = [place + 1 for place in kind.positions]
        axes.plot(places, kind.norms, ".", markersize=3, color=colour, label=kind.name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("position, from 1")
    axes.legend(fontsize=8)
    return True


def _by_layer(figure: Any, found: Analysis) -> bool:
    table = by_layer(found)
    if len(table.rows) < 2:
        return False
    figure.set_size_inches(_SIZE[0], 0.6 + 0.16 * len(table.rows) + 1.6)
    axes = figure.subplots()
    axes.set_title("Layer x measure (each column from its smallest to its largest)", fontsize=10)
    grid = [[float("nan") if cell is None else cell for cell in line[1:]] for line in table.heat]
    axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(table.head) - 1), table.head[1:], rotation=40, ha="right", fontsize=7)
    axes.set_yticks(range(len(table.rows)), [row[0] for row in table.rows], fontsize=6)
    axes.set_ylabel("layer")
    return True


def _attention(figure: Any, found: Analysis) -> bool:
    if found.shares is None:
        return False
    numbers = range(1, found.shares.references + 1)
    figure.set_size_inches(_SIZE[0], max(_SIZE[1], 0.13 * found.shares.blocks + 1.4))
    several = figure.subplots(1, len(numbers), squeeze=False)[0]
    grids = [found.shares.of(number) for number in numbers]
    most = max((value for grid in grids for line in grid for value in line if value == value), default=0.0) or 1.0
    for axes, grid, number in zip(several, grids, numbers):
        image = axes.imshow(
            [[100 * v for v in line] for line in grid], aspect="auto", cmap="magma", vmin=0, vmax=100 * most
        )
        axes.set_title(f"Attention that reference {number} gets (%)", fontsize=10)
        axes.set_xticks(range(len(grid[0])), [str(step + 1) for step in sorted(found.shares.steps)], fontsize=7)
        axes.set_xlabel("step")
        axes.set_yticks(range(len(grid)), [str(block) for block in range(1, len(grid) + 1)], fontsize=6)
        axes.set_ylabel("block")
        figure.colorbar(image, ax=axes)
    return True


_PLOTS: dict[str, Callable[[Any, Analysis], bool]] = {
    "std against std": _spreads,
    "ratios sorted": _ratios,
    "row norms by position": _norms,
    "layer by measure": _by_layer,
    "attention by block and step": _attention,
}
