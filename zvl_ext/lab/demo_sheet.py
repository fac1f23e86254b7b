"""`python -m zvl_ext demo`: what the reference does to one prompt, as a contact sheet.

The same sheet is made with the miniature family, which comes with the project, and with the real weights.
"""

from __future__ import annotations

import argparse
import os
import shlex
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .. import __version__
from ..conditioner import plain_picture
from ..conditioning import Conditioning
from ..errors import ZvlError
from ..options import Settings
from ..output import written
from ..reference import Reference, open_reference
from .demo import PROMPT, REFERENCE, Judge, Weights, open_weights
from .miniature import world
from .sheet import Cell, Row, contact_sheet

SIDE, REAL_SIDE = 160, 256  # of a picture on the sheet


@dataclass(frozen=True)
class Plan:
    """A row before it is made.

    Attributes:
        title: What it is called.
        note: What it shows, for someone who has never heard of it.
        values: The settings of all its pictures, in terms of the real models.
        changes: Each picture's caption, and what it changes.
    """

    title: str
    note: str
    values: dict[str, Any]
    changes: tuple[tuple[str, dict[str, Any]], ...]


def _over(name: str, *values: float, word: str = "") -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((f"{word or name} {value:g}", {name: value}) for value in values)


_BLOCKS = ("all", "early", "middle", "late", "early, middle", "middle, late", "early, late")
_PRESETS = ("Fill in", "Balanced", "Close variation", "Research default", "Research, all tokens", "Splice: variation")
_STEPS = ((0.0, 1.0), (0.0, 0.25), (0.0, 0.5), (0.0, 0.75), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0))
PLANS: tuple[Plan, ...] = (
    Plan(
        "Weight",
        "how strongly the picture looks at the reference: from the plain picture to full",
        {"preset": "Balanced"},
        _over("weight", 0, 0.1, 0.25, 0.5, 0.75, 1, 2),
    ),
    Plan(
        "Presets",
        "settings under one name, as the web UI offers them; the first is without the reference",
        {"preset": "Balanced"},
        (("plain", {"weight": 0.0}), *((name, {"preset": name}) for name in _PRESETS)),
    ),
    Plan(
        "Weight, rows and columns",
        "the same where the reference's tokens know their place (positions mrope)",
        {"preset": "Balanced", "positions": "mrope"},
        _over("weight", 0, 0.1, 0.25, 0.5, 0.75, 1, 2),
    ),
    Plan(
        "Blocks",
        "which of the image model's blocks look at the reference, at weight 0.7",
        {"preset": "Balanced", "weight": 0.7},
        tuple((name, {"blocks": name}) for name in _BLOCKS),
    ),
    Plan(
        "Steps",
        "during which part of the sampling, at weight 0.7",
        {"preset": "Balanced", "weight": 0.7},
        tuple((f"{100 * a:.0f} to {100 * b:.0f} %", {"start": a, "end": b}) for a, b in _STEPS),
    ),
    Plan(
        "Alpha, engine blend",
        "the other engine: the reference mixed into the prompt's own tokens",
        {"preset": "Image tokens, sink-aware"},
        _over("alpha", 0, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
    ),
)


def write_sheet(args: argparse.Namespace, reference: Reference | None) -> None:
    """Make the contact sheet that the command line asks for and write it; what there is of it, when it is
    interrupted."""
    start = time.monotonic()
    weights = open_weights(args)
    sheet, pictures, whole = make_sheet(weights, args.prompt or PROMPT, reference, args.seed)
    with written(args.out) as temporary:
        sheet.save(temporary, "PNG", optimize=True)
    seconds = time.monotonic() - start
    kept = "" if whole else " (stopped half-way)"
    print(f"{args.out}: {pictures} pictures{kept} in {seconds:.0f} s, at {os.path.abspath(args.out)}")
    if weights.miniature:
        print("The same with the real weights: " + real_command(args.prompt))


def real_command(prompt: str | None = None) -> str:
    """How to do the same with the real weights."""
    words = shlex.quote(prompt) if prompt else '"..."'
    return f"python -m zvl_ext demo --z-image FOLDER --qwen3-vl PATH --prompt {words} --reference FILE"


def make_sheet(weights: Weights, prompt: str, reference: Reference | None, seed: int) -> tuple[Image.Image, int, bool]:
    """The contact sheet, its number of pictures, and whether it is whole; the same arguments give the same bytes.

    Whatever is refused is refused before the first picture. An interruption ends it with the rows that are made.

    Args:
        reference: None for the drawn one.
    """
    scene = REFERENCE if reference is None else None
    reference = reference or open_reference(Image.fromarray(world.draw(REFERENCE, 0)))
    model, sampling = weights.model, weights.sampling
    judge = Judge(weights.classifier, prompt, reference, scene) if weights.classifier else None
    text = Conditioning(model.text(prompt).embeddings)
    asked = [
        [_conditioning(weights, plan, more, reference, prompt, seed) for _, more in plan.changes] for plan in PLANS
    ]
    model.check_length(max(len(each or text) for row in asked for each in row))

    def generate(conditioning: Conditioning) -> Image.Image:
        return model.generate([conditioning], [seed], **sampling)[0]

    def cell(picture: Image.Image, caption: str) -> Cell:
        return Cell(picture, caption, judge.measure(picture) if judge else (None, None))

    plain = cell(generate(text), "without the reference")
    rows: list[Row] = []
    try:
        for plan, conditionings in zip(PLANS, asked):
            cells = [
                cell(plain.picture if each is None else generate(each), caption)
                for (caption, _), each in zip(plan.changes, conditionings)
            ]
            rows.append(Row(plan.title, plan.note, cells))
            print(f"{plan.title}: {len(cells)} pictures done", flush=True)
    except KeyboardInterrupt:
        if not rows:
            raise ZvlError("Stopped before the first row was made.") from None
    lines = [("prompt", prompt), ("reference", judge.shown if judge else reference.name)]
    lines.append(("how to read it", "each row changes one setting; the bars tell what is in a picture"))
    width, height = sampling["size"]
    how = (
        f"{weights.name}, {width} x {height}, seed {seed}, {sampling['steps']} steps, guidance {sampling['guidance']:g}"
    )
    footer = f"Z-Image VL {__version__}."
    if weights.miniature:
        footer += (
            " The miniature is a small trained model of the real classes; it knows drawings of one object only."
            f" The same with the real weights: {real_command()}"
        )
    top = [Cell(reference.image, "the reference"), plain]
    side = SIDE if weights.miniature else REAL_SIDE
    sheet = contact_sheet("Z-Image VL: what the reference adds", how, lines, top, rows, footer, side)
    return sheet, 1 + sum(len(row.cells) for row in rows), len(rows) == len(PLANS)


def _conditioning(
    weights: Weights, plan: Plan, more: dict[str, Any], reference: Reference, prompt: str, seed: int
) -> Conditioning | None:
    """A picture's conditioning; None where it is the plain picture."""
    settings = Settings.from_mapping(plan.values).changed(more)
    if plain_picture(settings):
        return None
    return weights.model.condition(weights.fitted(settings), reference, prompt, seed)
