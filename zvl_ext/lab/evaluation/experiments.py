"""What the evidence measures, as data: the table of experiments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ...presets import PRESETS, START
from ..miniature.family import LAYERS, layer_at_same_depth
from .row_changes import ROW_CHANGES
from .rows import NAMED, Row
from .rows import Pair as Pair
from .rows import pairs as pairs


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        pairs: Of the main part, the baselines, half-specified prompts, presets, and all about the weight.
        factor_pairs: Of the parts that vary one factor.
        seed_pairs: Of the part in which several seeds of each are drawn.
        alphas: Of the main curves.
        blend_alphas, splice_alphas: Of the parts that vary one factor.
        weights: Of the curves over weight; the smallest shows what a weight towards 0 tends to.
    """

    pairs: int = 200
    factor_pairs: int = 60
    seed_pairs: int = 20
    alphas: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0)
    blend_alphas: tuple[float, ...] = (0.3, 0.7)
    splice_alphas: tuple[float, ...] = (0.5, 1.0)
    weights: tuple[float, ...] = (0.0001, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)

    def of(self, pairs: int) -> Plan:
        """The same with another number of pairs in the main part, and of the others in proportion."""
        fewer = {
            name: max(2, round(getattr(self, name) * pairs / self.pairs)) for name in ("factor_pairs", "seed_pairs")
        }
        return dataclasses.replace(self, pairs=pairs, **fewer)


QUICK = Plan(24, 6, 4, (0.3, 0.6, 1.0), (0.7,), (1.0,), (0.0001, 0.35, 1.0))


def at_depth(values: dict[str, Any]) -> dict[str, Any]:
    """Settings made for the big models, at the same depth of the miniature ones."""
    return values | {"hidden_layer": layer_at_same_depth(values["hidden_layer"])}


TEXT = at_depth(PRESETS["Research default"])
IMAGE = at_depth(PRESETS["Research image tokens"])
SPLICE = at_depth(PRESETS["Splice: faithful"])

# The settings whose whole curve over alpha is measured.
CURVES: dict[str, dict[str, Any]] = {
    "blend text, global": TEXT,
    "blend text, sink-aware": TEXT | {"normalization": "sink_aware"},
    "blend image, per-dim": IMAGE,
    "blend image, sink-aware": at_depth(PRESETS["Image tokens, sink-aware"]),
    "splice all + insert": SPLICE,
    "splice all + insert, MRoPE": SPLICE | {"positions": "mrope"},
    "splice all + insert, dropout 0.75": SPLICE | {"image_dropout": 0.75},
    "splice text": SPLICE | {"token_mode": "text", "length_match": "interpolate"},
}
PRESET_NAMES = {  # where a curve is a preset of the product
    "blend text, global": "Research default",
    "blend image, per-dim": "Research image tokens",
    "blend image, sink-aware": "Image tokens, sink-aware",
    "splice all + insert": "Splice: faithful",
}
LAYERS_TRIED = tuple(range(-1, -LAYERS - 1, -1))
BLOCKS = 6  # the image model's main ones
LAYERS_SWAPPED = (-2, -5)
NORMALIZATIONS = ("none", "global", "per_dim", "hybrid", "sink_aware")
MODES = ("text", "image", "image_no_markers", "all")
BLENDS = ("linear", "slerp", "adain", "adain_per_dim")


def _each(name: str, *choices: Any) -> dict[str, dict[str, Any]]:
    return {str(choice): {name: choice} for choice in choices}


_INTERPOLATED = {
    label: change | {"length_match": "interpolate"} for label, change in _each("token_mode", *MODES).items()
}

# Parts that vary one factor around a base: (part, the base's name, the base, the varied values by their name).
FACTORS: tuple[tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]], ...] = (
    ("layer", "blend text", TEXT, _each("hidden_layer", *LAYERS_TRIED)),
    ("layer", "blend image", IMAGE, _each("hidden_layer", *LAYERS_TRIED)),
    ("layer", "splice all + insert", SPLICE, _each("hidden_layer", *LAYERS_TRIED)),
    ("token mode", "blend sink-aware", CURVES["blend text, sink-aware"], _each("token_mode", *MODES)),
    ("token mode", "splice", SPLICE, _INTERPOLATED | {"all + insert": {}}),
    ("normalization", "blend text", TEXT, _each("normalization", *NORMALIZATIONS)),
    ("normalization", "blend image", IMAGE, _each("normalization", *NORMALIZATIONS)),
    ("normalization", "splice all + insert", SPLICE, _each("normalization", *NORMALIZATIONS)),
    ("length match", "blend image", IMAGE, _each("length_match", "interpolate", "truncate", "insert")),
    ("length match", "splice all", SPLICE, _each("length_match", "interpolate", "truncate", "insert")),
    ("dropout", "blend image", IMAGE, _each("image_dropout", 0.0, 0.75, 0.95)),
    ("dropout", "splice all + insert", SPLICE, _each("image_dropout", 0.0, 0.5, 0.75, 0.85, 0.95)),
    ("blend mode", "blend text", TEXT, _each("blend_mode", *BLENDS)),
    ("blend mode", "blend image", IMAGE, _each("blend_mode", *BLENDS)),
    ("positions", "splice all + insert", SPLICE, _each("positions", "sequential", "mrope")),
    ("positions", "splice text", CURVES["splice text"], _each("positions", "sequential", "mrope")),
)

# Inserted rows with a weight: what a row stands for counts, and the block stands in front.
WEIGHTED = SPLICE | {"proportional": True, "block_place": "front"}
WEIGHT_CURVES: dict[str, dict[str, Any]] = {
    "splice, sequential": WEIGHTED,
    "splice, MRoPE": WEIGHTED | {"positions": "mrope"},
    "blend, all + insert": IMAGE
    | {
        "token_mode": "all",
        "normalization": "sink_aware",
        "length_match": "insert",
        "proportional": True,
        "block_place": "front",
    },
}
INSERTING = ("Balanced", "Fill in", "Close variation")  # the presets with a weight
FRESH = 200  # the first pair that nothing was chosen on: what is fitted is compared from here on
PROFILE, PROJECTION = "Keeps what is named", "As the text encoder"  # the miniature's own
LORA, LORA_OF_BLEND = "Reads references", "Reads blended references"
# What does best beside a caption, of some hundred settings tried on pairs 100 to 159 (by late blocks, MRoPE, steps,
# alpha, layer and normalization): inserted rows of the blend that block 4 sees most.
CHOSEN_BLOCKS = ("4", "4, 5:0.5", "all:0.1, 4")
WEIGHTS_OF_FITTED = (0.05, 0.1, 0.15, 0.2, 0.25, 0.35)
WEIGHTS_ALONE = (*WEIGHTS_OF_FITTED, 0.5, 1.0)
WEIGHTS_OF_LORA = (0.35, 0.5, 1.0, 1.5, 2.0)  # it learns to read rows that weigh more
WEIGHTS_OF_HALF = (0.1, 0.2, 0.35, 0.5, 1.0)
WEIGHTS_OF_SEEDS = (0.2, 0.5, 1.0)
CAPTION = "{caption}"
_START_WEIGHT = PRESETS[START]["weight"]
WINDOWS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0), (0.0, 0.5), (0.5, 1.0))

BEGUN = 0.87  # the most noise at 8 steps that leaves something of a picture; with 0.9, sampling begins from noise alone
WEIGHTS_OF_ROLES = (0.2, 0.35, 0.5, 0.7, 1.0)
_DEPTHS = ("-3", "-4", "-5", "-2:0.5, -4:0.5")
# What may divide look from shape, around inserted rows of weight 1; each over prompts that name one of the two.
ROLES: dict[str, dict[str, Any]] = {
    **{f"weight {weight:g}": {"weight": weight} for weight in WEIGHTS_OF_ROLES},
    **{f"ease out, weight {weight:g}": {"weight": weight, "curve": "ease out"} for weight in (0.25, 1.0)},
    **{f"{a:g} to {b:g} of the steps": {"start": a, "end": b} for a, b in WINDOWS},
    **{f"{name} blocks": {"blocks": name} for name in ("early", "middle", "late")},
    **{f"image rows of layer {layers}": {"image_layers": layers} for layers in _DEPTHS},
    "merged 3 × 3": {"merge": 3},
    "dropout 0.9": {"image_dropout": 0.9},
    "prompt's rows alone": {"token_mode": "text", "length_match": "interpolate"},
    **{f"MRoPE, weight {weight:g}": {"positions": "mrope", "weight": weight} for weight in (0.35, 1.0)},
}

# As FACTORS, around inserted rows with a weight; alpha stays the base's.
WEIGHTED_FACTORS: tuple[tuple[str, str, dict[str, Any], dict[str, dict[str, Any]]], ...] = (
    (
        "blocks", "splice, sequential", WEIGHTED,
        _each("blocks", "all", "early", "middle", "late", *(str(block) for block in range(BLOCKS))),
    ),
    ("blocks", "splice, MRoPE", WEIGHT_CURVES["splice, MRoPE"], _each("blocks", "early", "middle", "late")),
    ("steps", "splice, sequential", WEIGHTED, {f"{a:g} to {b:g}": {"start": a, "end": b} for a, b in WINDOWS}),
    (
        "steps", "splice, MRoPE", WEIGHT_CURVES["splice, MRoPE"],
        {f"{a:g} to {b:g}": {"start": a, "end": b} for a, b in WINDOWS[-2:]},
    ),
    ("merge", f"weight {_START_WEIGHT:g}", WEIGHTED | {"weight": _START_WEIGHT}, _each("merge", 1, 2, 3)),
    ("merge", "weight 1", WEIGHTED, _each("merge", 1, 2, 3)),
    ("fewer rows", "they count for what is gone", WEIGHTED, _each("image_dropout", 0.0, 0.5, 0.75, 0.95)),
    (
        "fewer rows", "they count for themselves", WEIGHTED | {"proportional": False},
        _each("image_dropout", 0.0, 0.5, 0.75, 0.95),
    ),
)  # fmt: skip


def baselines(count: int, half: bool = False, part: str = "baselines") -> list[Row]:
    """What the product is compared with."""
    captions = [("caption behind the prompt", "sentence")]
    if not half:
        captions += [("Qwen3-VL's own words behind the prompt", "list"), ("caption alone", "alone")]
    rows = [Row(part, "prompt alone", "prompt", {}, count, half)]
    rows += [Row(part, name, "caption", {"written": written}, count, half) for name, written in captions]
    rows += [
        Row(part, f"img2img, strength {s:g}", "img2img", {"strength": s}, count, half)
        for s in ((0.4,) if half else (0.75, 0.6, 0.4, 0.25))
    ]
    rows += [
        Row(part, f"trained adapter, scale {s:g}", "adapter", {"scale": s}, count, half)
        for s in ((1.0,) if half else (0.25, 0.5, 0.75, 1.0, 1.5))
    ]
    return rows


def proposals(count: int) -> list[Row]:
    """The findings' own: all rows of one extraction, without the text encoder's, image against text."""
    alone = WEIGHT_CURVES["blend, all + insert"] | {"alpha": 1.0}
    rows = [
        Row("proposals", f"intra blend, image rows at weight {w:g}", "settings", alone | {"weight": w}, count)
        for w in (0.1, 0.35, 1.0)
    ]
    text = CURVES["blend text, sink-aware"] | {"alpha": 1.0}
    prompts = {"the prompt": "{prompt}", "the reference's caption": CAPTION, "both": "{prompt}, " + CAPTION}
    return rows + [
        Row("proposals", f"Qwen3-VL alone, its text is {name}", "settings", text | {"vl_prompt": prompt}, count)
        for name, prompt in prompts.items()
    ]


def fitted(count: int) -> list[Row]:
    """What was learned with little training beside what was not, over pairs that none of it was chosen on: four times
    as many where prompts are half-specified."""
    blended = WEIGHTED | {"engine": "blend"}
    # A way's name, its settings, the LoRA that acts, and the weights that are tried.
    weighted: tuple[tuple[str, dict[str, Any], str, tuple[float, ...]], ...] = (
        ("one weight", WEIGHTED, "", WEIGHTS_ALONE),
        ("profile", WEIGHTED | {"profile": PROFILE}, "", WEIGHTS_ALONE),
        ("blend", blended, "", WEIGHTS_OF_FITTED),
        ("projection, blend", blended | {"projection": PROJECTION}, "", WEIGHTS_OF_FITTED),
        ("LoRA", WEIGHTED, LORA, WEIGHTS_OF_LORA),
        ("LoRA, blend", blended, LORA_OF_BLEND, WEIGHTS_OF_LORA),
    )
    ways: list[tuple[str, str, dict[str, Any], str]] = [
        ("prompt alone", "prompt", {}, ""),
        ("caption behind the prompt", "caption", {"written": "sentence"}, ""),
        *((f"trained adapter, scale {s:g}", "adapter", {"scale": s}, "") for s in (0.5, 0.75, 1.0)),
    ]
    for name, values, lora, weights in weighted:
        for w in weights:
            for curve, change in (("", {}), (", ease out", {"curve": "ease out"})):
                ways.append((f"{name}, {w:g}{curve}", "settings", values | {"weight": w} | change, lora))
    return [
        Row("fitted", f"{asked} prompts: {name}", how, values, pairs, half=half, first=FRESH, lora=lora)
        for asked, half, pairs in (("half", True, 4 * count), ("full", False, count))  # half: small differences
        for name, how, values, lora in ways
    ]


def beside_caption(count: int) -> list[Row]:
    """The settings chosen for it beside a caption, over pairs that they were not chosen on."""
    blend = WEIGHT_CURVES["blend, all + insert"] | {"weight": 2.0}
    rows = [
        Row("beside a caption", "caption behind the prompt", "caption", {"written": "sentence"}, count, first=FRESH)
    ]
    return rows + [
        Row(
            "beside a caption", f"blend, weight 2, blocks {blocks}", "settings", blend | {"blocks": blocks}, count,
            first=FRESH,
        )
        for blocks in CHOSEN_BLOCKS
    ]  # fmt: skip


def recipes(count: int) -> list[Row]:
    """Ways that users have found, beside what each is made of."""
    start, captioned = at_depth(PRESETS[START]), TEXT | {"alpha": 0.5, "vl_prompt": CAPTION}
    return [
        Row("recipes", f"img2img, strength {BEGUN:g}", "img2img", {"strength": BEGUN}, count),
        Row("recipes", f"{START}, alone", "settings", start, count),
        Row(
            "recipes",
            f"img2img, strength {BEGUN:g}, with {START}",
            "img2img",
            {"strength": BEGUN, "settings": start},
            count,
        ),
        Row("recipes", "blend text", "settings", TEXT | {"alpha": 0.5}, count),
        Row("recipes", "blend text, the reference's caption for Qwen3-VL", "settings", captioned, count),
        Row(
            "recipes",
            "blend text from -2, the reference's caption for Qwen3-VL",
            "settings",
            captioned | {"hidden_layer": -2},
            count,
        ),
    ]


def _swapped() -> list[tuple[str, str, int, dict[str, Any]]]:
    """What is measured with the reference exchanged: an engine, a token mode, a layer, and the settings."""
    blend = TEXT | {"normalization": "sink_aware", "alpha": 1.0}
    splice = SPLICE | {"length_match": "interpolate"}
    return [
        (name, mode, layer, values | {"token_mode": mode, "hidden_layer": layer})
        for name, values in (("blend", blend), ("splice", splice))
        for mode in MODES
        for layer in LAYERS_SWAPPED
    ]


def experiments(plan: Plan) -> list[Row]:
    """The whole table, in the order in which it is shown."""

    def alphas(values: dict[str, Any]) -> tuple[float, ...]:
        return plan.splice_alphas if values["engine"] == "splice" else plan.blend_alphas

    rows = [
        Row("pictures", "drawn", "real", {}, plan.pairs),
        Row("pictures", "drawn, through the autoencoder", "autoencoder", {}, plan.pairs),
        Row("captions", "Qwen3-VL's captions of the references", "captions", {}, plan.pairs),
        Row("statistics", "hidden states", "statistics", {}, plan.factor_pairs),
    ]
    rows += baselines(plan.pairs)
    rows += [
        Row("main", name, "settings", values | {"alpha": alpha}, plan.pairs)
        for name, values in CURVES.items()
        for alpha in plan.alphas
    ]
    raw = TEXT | {"token_mode": "image_no_markers"}
    for name in ("none", "global", "per_dim"):
        rows += [
            Row(
                "vision tower",
                f"tower, {name}",
                "tower",
                raw | {"normalization": name, "alpha": alpha},
                plan.factor_pairs,
            )
            for alpha in (0.3, 1.0)
        ]
    for part, base, values, varied in FACTORS:
        for name, change in varied.items():
            rows += [
                Row(part, f"{base}: {name}", "settings", values | change | {"alpha": alpha}, plan.factor_pairs)
                for alpha in alphas(values)
            ]
    rows += baselines(plan.pairs, half=True, part="half-specified")
    for name, values in CURVES.items():
        rows += [
            Row("half-specified", name, "settings", values | {"alpha": alpha}, plan.pairs, half=True)
            for alpha in alphas(values)
        ]
    for name, values in WEIGHT_CURVES.items():
        rows += [Row("weight", f"{name}: {w:g}", "settings", values | {"weight": w}, plan.pairs) for w in plan.weights]
    rows += [Row("presets", name, "settings", at_depth(values), plan.pairs) for name, values in PRESETS.items()]
    rows += [
        Row(part, f"{base}: {name}", "settings", values | change, plan.pairs)
        for part, base, values, varied in WEIGHTED_FACTORS
        for name, change in varied.items()
    ]
    rows += [
        Row("half-specified", f"{name}, weight {w:g}", "settings", values | {"weight": w}, plan.pairs, half=True)
        for name, values in WEIGHT_CURVES.items()
        for w in WEIGHTS_OF_HALF
    ]
    rows += [
        Row("half-specified", name, "settings", at_depth(PRESETS[name]), plan.pairs, half=True) for name in INSERTING
    ]
    for names in NAMED:
        rows += [
            Row("roles", f"prompt names the {names}: {label}", "settings", WEIGHTED | change, plan.pairs, names=names)
            for label, change in ROLES.items()
        ]
        rows += [
            Row(
                "roles", f"prompt names the {names}: {change}", "settings", WEIGHTED, plan.pairs, names=names,
                change=change,
            )
            for change in ROW_CHANGES
        ]  # fmt: skip
        rows.append(Row("roles", f"prompt names the {names}: prompt alone", "prompt", {}, plan.pairs, names=names))
    rows += recipes(plan.factor_pairs)
    rows += proposals(plan.factor_pairs)
    rows += fitted(plan.pairs)
    rows += beside_caption(4 * plan.pairs)
    rows += [
        Row("reference swap", f"{base} {mode}, layer {layer}", "swap", values, plan.factor_pairs)
        for base, mode, layer, values in _swapped()
    ]
    several: list[tuple[str, str, dict[str, Any]]] = [
        ("drawn", "real", {}),
        ("prompt alone", "prompt", {}),
        ("caption behind the prompt", "caption", {"written": "sentence"}),
        ("trained adapter, scale 1", "adapter", {"scale": 1.0}),
    ]
    for name, values in CURVES.items():
        several += [(name, "settings", values | {"alpha": alpha}) for alpha in alphas(values)]
    several += [
        (f"splice all + insert, dropout {share}", "settings", SPLICE | {"image_dropout": share, "alpha": 1.0})
        for share in (0.85, 0.95)
    ]
    several += [(f"splice, sequential, weight {w:g}", "settings", WEIGHTED | {"weight": w}) for w in WEIGHTS_OF_SEEDS]
    several.append((START, "settings", at_depth(PRESETS[START])))
    rows += [Row("diversity", name, how, values, plan.seed_pairs, seeds=4) for name, how, values in several]
    return rows
