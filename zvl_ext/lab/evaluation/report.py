"""The evidence as files: results.json, evidence.md and the figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ...intervals import RESAMPLES
from ...output import written
from ..miniature.family import LAYERS, SAMPLING, WEIGHTS
from ..miniature.world import ATTRIBUTES, JUDGED
from . import plots
from .experiments import BLOCKS, PRESET_NAMES, SPLICE, TEXT, Plan
from .report_fitted import best_settings, fitted_table, learned_for
from .rows import Row
from .table import Entry, Missing, Table, caption_accuracy, with_interval
from .verdicts import Verdict, decide, findings, what_it_must_show

# Lines of evidence.md are as long as they were written: a diff of it shows numbers that have changed, and no others.
_INTRODUCTION = (
    "Written by `python -m zvl_ext evaluate`. **The miniature family is not Z-Image.** It consists of tiny models of "
    "the same classes, trained on drawn pictures of one object each. What is shown here is how the method works on "
    "models of this architecture; how large an effect is on the real models, and whether a finding about them is "
    "right, it can't tell."
)
_TRAINED_IN = (
    "Three things that large models have by themselves were trained into the small ones, because nothing this small "
    "gets them: the attention sink (the first token some twenty times as long as others), hidden states that still "
    "name their own word, and image tokens that name what their patch shows. So the miniature shows what follows from "
    "these, not that they exist. And the vision tower was aligned under both ways of counting positions, with 0, 1, 2, "
    "... in half of the batches, because `sequential` is published to work on the real weights; a tower that knows "
    "`mrope` alone has nothing but shapes to say there. The image model's training was not prolonged: its shapes are "
    "rough. The adapter is a small one with a short training (111,000 parameters, minutes)."
)
_PAIRS = (
    "Each pair is a prompt and a reference that disagree in shape, colour, background and style, all of combinations "
    "that training never showed. Pictures are sampled in {steps} steps with guidance {guidance:g}; the same pair has "
    "the same noise in every row. Layers are named as the miniature counts them, -1 to -{layers}; the presets' -8 and "
    "-2 lie as deep as {blend} and {splice} here."
)
_FEWER = (
    "**This run has {pairs} pairs in the main parts instead of {usual}.** Intervals are wide; where a verdict needs a "
    "clear difference, *does not hold* and *not shown* may be for want of pairs."
)
_MEASURES = (
    "- **adherence**: share of the prompt's four attributes that the picture shows. **similarity**: share of the "
    "reference's. They contradict each\n"
    "  other in all four, so the two add up to at most 1; what is missing is **neither**'s. An attribute counts as "
    "shown when the classifier\n"
    "  finds its value over 0.5 probable.\n"
    "- **unlike**: share of pictures with an attribute that no value fits. **distance**: of the classifier's features "
    "to the nearest of {real} drawn\n"
    "  pictures, in multiples of the usual distance between drawn pictures: 1 is a real picture. **Fréchet**: between "
    "the features of all pictures of\n"
    "  the row and the drawn ones; it depends on the number of pictures, so compare it within a table only. "
    "**cosine**: of the picture's features\n"
    "  with the reference's, from the mean of the drawn ones.\n"
    "- **diversity**: mean distance of features between four seeds of one pair, in the same unit as distance.\n"
    "- Brackets are 95 % bootstrap intervals over pairs ({resamples} resamples). *Clearly* means: the interval of the "
    "difference, pair by pair, leaves\n"
    "  out zero."
)

_PLACED = ("baselines", "weight", "presets", "main", "half-specified", "diversity")  # parts in the report's own order
_COLUMNS = ("adherence", "similarity", "neither", "unlike", "distance", "cosine")
_BY_ATTRIBUTE = ("baselines", "weight", "presets", "main", "blocks", "steps", "roles", "beside a caption")
_TITLES = {
    "baselines": "Baselines",
    "weight": "Curves over weight",
    "presets": "The presets",
    "recipes": "Recipes found by users",
    "fitted": "What little training brings",
    "beside a caption": "Beside a caption",
    "proposals": "The findings' own proposals",
    "blocks": "By block",
    "steps": "By step",
    "reference swap": "The reference exchanged",
    "main": "Curves over alpha",
    "roles": "What of the reference is taken over",
    "half-specified": "Half-specified prompts",
    "diversity": "Diversity of seeds",
    "pictures": "The instruments' own limits",
    "vision tower": "The raw vision tower",
}  # of the parts that are not about one factor
_NOTES = {
    "baselines": "A caption is Qwen3-VL's own of the reference, appended to the prompt. img2img starts from the "
    "reference. The adapter is trained.",
    "main": "Presets: "
    + ", ".join(f"{name} is *{preset}*" for name, preset in PRESET_NAMES.items())
    + ". Alpha 0 is the prompt alone.",
    "weight": "Inserted rows; the block stands in front of the prompt's rows, and a row counts for what it stands for. "
    "The first weight shows what a weight towards 0 tends to: *moved* is the mean pixel distance to the picture of the "
    "prompt alone.",
    "presets": "Every preset as it is, its layer at the same depth.",
    "recipes": "img2img from the reference with the reference as conditioning as well, and the reference's own caption "
    "as the text that Qwen3-VL reads, each beside what it is made of.",
    "proposals": "Without the text encoder: all rows are Qwen3-VL's, of one extraction. *Intra blend*: its image rows "
    "stand beside its text rows with a weight. Below, its text rows alone, with other texts for it to read. (*Dual "
    "extraction*, image rows read without the prompt, is what every setting does: they stand before it, and the model "
    "looks back only.)",
    "fitted": "What needs no training (a caption; one weight for all heads; engine blend with a weight, and without a "
    "projection) beside what was learned: a profile (`zvl fit weights`), a projection (`zvl fit projection`), a LoRA "
    "(`zvl fit lora`, one for each engine) and the trained adapter, on pairs that nothing was chosen on. Numbers "
    "behind a name are the weight, or the adapter's scale. **Half** prompts (of four times as many pairs) speak of "
    "two of the four attributes: *kept* is the share of these, *filled* the share of the other two that are the "
    "reference's, *lost* the share of the first two that are the reference's instead. **Full** prompts speak of all "
    "four. *parameters* were learned in so many *seconds*, with reading what they were learned from, on one or two "
    "cores that had other work as well. In bold: of each kind the setting that keeps and fills most on every other "
    "pair.",
    "beside a caption": "Inserted rows of the blend at weight 2, seen most by one of the late blocks. These settings "
    "were chosen on pairs 100 to 159; measured are pairs from 200 on.",
    "blocks": "Weight 1 in some of the image model's {blocks} main blocks, 0 in the others.",
    "steps": "Weight 1 during some of the steps, as shares of their number.",
    "roles": "Prompts that name what it is (the shape alone) or how it looks (colour, background and style), beside a "
    "reference that shows something else in all of them. Inserted rows of weight 1 but where the row says otherwise. "
    "adherence is about what the prompt names, similarity about what it leaves open. The last rows before "
    "the prompt alone do something to the reference's rows that is no control.",
    "reference swap": "The prompt and the noise stay, the reference is exchanged for another pair's; alpha 1, every "
    "token mode at the prompt's length. *states*: how far the conditioning's rows move, but for the first, as a share "
    "of their size. *pictures*: how far the pictures move, mean pixel distance. *from plain*: of the picture with the "
    "reference from that without. *of prompts*: how far two prompts' pictures are apart. *recognized*: share of the "
    "pictures that are nearer to their own reference than to the other; chance is 0.5.",
    "half-specified": "The prompt speaks of two of the four attributes, which two varies. adherence is about those, "
    "similarity about the two it leaves open: does the reference fill them?",
}


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def _part_table(entries: list[Entry], columns: tuple[str, ...] = _COLUMNS) -> str:
    rows = [
        [
            e.row.name,
            f"{e.row.alpha:g}" if e.row.how in ("settings", "tower") else "",
            *(with_interval(e.interval(name)) for name in columns),
            f"{e.values['frechet']:.1f}",
            str(e.row.pictures),
        ]
        for e in entries
    ]
    return _markdown(["setting", "alpha", *columns, "Fréchet", "n"], rows)


def _swap_table(entries: list[Entry]) -> str:
    columns = {
        "states": "states",
        "pictures": "pictures",
        "from plain": "moved",
        "of prompts": "others",
        "recognized": "recognized",
    }
    rows = [
        [e.row.name, *(with_interval(e.interval(name)) for name in columns.values()), str(e.row.pairs)] for e in entries
    ]
    return _markdown(["setting", *columns, "n"], rows)


def _attribute_table(entries: list[Entry]) -> str:
    columns = [(whose, name) for whose in ("prompt", "reference") for name in JUDGED]
    rows = [
        [e.row.name, f"{e.row.alpha:g}", *(f"{e.metric(f'{whose} {name}').mean():.2f}" for whose, name in columns)]
        for e in entries
    ]
    return _markdown(["setting", "alpha", *(f"{whose}'s {name}" for whose, name in columns)], rows)


def _captions(table: Table) -> list[str]:
    try:
        right = caption_accuracy(table)
    except Missing:
        return []
    if not right:
        return []
    numbers = [*map(with_interval, right.values()), str(table.part("captions")[0].row.pairs)]
    return [
        "## Qwen3-VL's captions",
        "Share of the references whose attribute it names rightly.",
        _markdown([*ATTRIBUTES, "n"], [numbers]),
    ]


def _hidden_states(values: dict[str, Any]) -> list[str]:
    sink = [
        [name, *(f"{v[key]:.3g}" for key in ("first", "others", "ratio", "std", "std without position 0"))]
        for name, v in values["sink"].items()
    ]
    compared = [
        [
            name,
            which,
            *(f"{c[key]:.3f}" for key in ("correlation", "median_ratio")),
            f"{c['worst_ratio']:.3g}",
            "{:.3g} against {:.3g}".format(*c["worst_stds"]),
            str(c["outliers"]),
        ]
        for name, both in values["compared"].items()
        for which, c in both.items()
    ]
    shares = [[name, *(f"{share:.2f}" for share in by.values())] for name, by in values["share"].items()]
    drift = values["drift"]
    return [
        "## Hidden states",
        "The attention sink: the first token's norm against the median of the others, and the standard deviation of "
        "all values.",
        _markdown(
            ["language model, text alone, layer -2", "first token", "others", "ratio", "std", "std without position 0"],
            sink,
        ),
        "Qwen3-VL's language model has drifted from the text encoder: on the same text the cosine of their states is "
        f"{drift['cosine']:.3f}, the correlation of the per-dimension spreads {drift['correlation']:.3f}.",
        "Hidden states after the reference against text embeddings, per-dimension standard deviations. A ratio has no "
        "direction, so the worst dimension's own are beside it, text embeddings first. Of the real models' worst "
        "dimension (396) 927.6 against 1.5 is published for image positions: there, as here, the text embeddings have "
        "the large value, by their first token.",
        _markdown(
            [
                "states",
                "statistics",
                "correlation",
                "median ratio",
                "worst ratio",
                "in that dimension",
                "dimensions over 10×",
            ],
            compared,
        ),
        "The share of an ordinary blended token that is Qwen3-VL's at alpha 0.3, by the tokens' sizes.",
        _markdown(["states", *next(iter(values["share"].values()))], shares),
    ]


def _verdict_table(verdicts: list[Verdict]) -> str:
    return _markdown(
        ["claim", "verdict", "numbers", "rule"], [[v.claim, f"**{v.verdict}**", v.numbers, v.rule] for v in verdicts]
    )


def _part(table: Table, part: str, weights: str) -> list[str]:
    entries = table.part(part)
    if not entries:
        return []
    parts = [f"## {_TITLES.get(part, f'One factor: {part}')}"]
    if part in _NOTES:
        parts.append(_NOTES[part].format(blocks=BLOCKS))
    if part == "reference swap":
        return [*parts, _swap_table(entries)]
    if part == "fitted":
        return [*parts, _markdown(*fitted_table(table, weights))]
    columns = {
        "diversity": ("diversity", "adherence", "similarity"),
        "weight": ("adherence", "similarity", "neither", "unlike", "distance", "cosine", "moved"),
    }.get(part, _COLUMNS)
    parts.append(_part_table(entries, columns))
    return [*parts, "By attribute:", _attribute_table(entries)] if part in _BY_ATTRIBUTE else parts


def _other_parts(table: Table, weights: str) -> list[str]:
    """Every part of pictures that has no place of its own."""
    names = dict.fromkeys(entry.row.part for entry in table.entries)
    return [
        line
        for name in names
        if name not in (*_PLACED, "captions", "statistics")
        for line in _part(table, name, weights)
    ]


def report(table: Table, shown: list[Verdict], checked: list[Verdict], drawn: list[str], weights: str = WEIGHTS) -> str:
    """evidence.md.

    Args:
        shown: The verdicts on what it must show.
        checked: Those on the published findings.
        drawn: File names of the figures beside it.
        weights: The miniature family's folder.
    """
    from .bench import REAL

    pairs = max((entry.row.pairs for entry in table.part("baselines")), default=0)
    layers = {"blend": TEXT["hidden_layer"], "splice": SPLICE["hidden_layer"], "layers": LAYERS}
    parts = [
        "# Evidence",
        _INTRODUCTION,
        _TRAINED_IN,
        _PAIRS.format(steps=SAMPLING["steps"], guidance=SAMPLING["guidance"], **layers),
        *([_FEWER.format(pairs=pairs, usual=Plan().pairs)] if pairs < Plan().pairs else []),
        _MEASURES.format(real=REAL, resamples=RESAMPLES),
        "## What it must show",
        _verdict_table(shown),
        "## The published findings, one by one",
        "Verdicts follow from the numbers by the rule beside them; none is written by hand.",
        _verdict_table(checked),
        *(f"![{os.path.splitext(name)[0].replace('_', ' ')}]({name})" for name in drawn),
        *_captions(table),
    ]
    for part in _PLACED:
        parts += _part(table, part, weights)
    if table.part("statistics"):
        parts += _hidden_states(table.statistics)
    return "\n\n".join([*parts, *_other_parts(table, weights)]) + "\n"


def write(
    out: str,
    measured: list[tuple[Row, dict[str, Any]]],
    digest: str,
    say: Callable[[str], None],
    weights: str = WEIGHTS,
) -> dict[str, Any]:
    """Write results.json, evidence.md and the figures into a folder.

    Args:
        digest: Of the miniature family's weights.
        weights: Their folder.

    Returns:
        What results.json holds: `weights`, `rows` (each with its settings and `measured`: n, and [mean, low, high] by
        measure), `must_show`, `findings` and `best of fitted`.
    """
    entries = [Entry(row, values) for row, values in measured]
    table = Table(entries)
    shown, checked = decide(what_it_must_show(table)), decide(findings(table))
    results = {
        "weights": digest,
        "must_show": [asdict(verdict) for verdict in shown],
        "findings": [asdict(verdict) for verdict in checked],
        "best of fitted": best_settings(table),
        "rows": [
            {
                **asdict(e.row),
                "alpha": e.row.alpha,
                **learned_for(e.row, weights),
                "measured": e.summary() if "frechet" in e.values else e.values,
            }
            for e in entries
        ],
    }
    drawn = plots.draw(table, out)
    files = {
        "results.json": json.dumps(results, indent=1, ensure_ascii=False) + "\n",
        "evidence.md": report(table, shown, checked, drawn, weights),
    }
    for name, text in files.items():
        with written(os.path.join(out, name)) as path, open(path, "w", encoding="utf-8") as file:
            file.write(text)
    for verdict in (*shown, *checked):
        say(f"{verdict.claim}: {verdict.verdict}.")
    say(f"Written to {out}: {', '.join([*files, *drawn])}")
    return results
