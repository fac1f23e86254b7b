"""What the numbers say: claims, each with a stated rule that decides about it. No verdict is written by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..miniature.world import ATTRIBUTES, JUDGED
from .experiments import CURVES, TEXT
from .table import LEVEL, Entry, Interval, Missing, Table, bootstrap, caption_accuracy, difference, pct, resamples, sign


@dataclass(frozen=True)
class Verdict:
    """A claim, the rule that decides about it, the numbers, and what the rule says."""

    claim: str
    rule: str
    numbers: str
    verdict: str


HOLDS, FAILS, PARTLY = "holds", "does not hold", "holds in part"
SHOWN_HERE, NOT_SHOWN = "shown", "not shown"


def what_it_must_show(table: Table) -> list[tuple[str, str, Callable[[], tuple[str, str]]]]:
    """(claim, rule, what decides): a function of no arguments that gives the numbers and the verdict."""
    settings = [e for e in table.part("main") if e.row.how == "settings"]

    def adherence_at_zero() -> tuple[str, str]:
        plain = table.named("baselines", "prompt alone")
        wanted = {"colour": 0.9, "background": 0.9, "shape": 0.8}
        got = {name: plain.interval(f"prompt {name}") for name in wanted}
        style = plain.interval("prompt style")
        numbers = ", ".join(f"{name} {pct(got[name])}" for name in wanted) + f", style {pct(style)}"
        return numbers, SHOWN_HERE if all(got[name][0] >= least for name, least in wanted.items()) else NOT_SHOWN

    def captions() -> tuple[str, str]:
        right = caption_accuracy(table)
        return ", ".join(f"{name} {pct(v)}" for name, v in right.items()), SHOWN_HERE if all(
            v[0] >= 0.95 for v in right.values()
        ) else NOT_SHOWN

    def best_of(entries: list[Entry], plain: Entry, name: str) -> tuple[str, Interval, Interval]:
        """The entry with most of a measure on every other pair, and what it and the prompt alone have on the rest."""
        best = max(entries, key=lambda e: e.metric(name)[::2].mean())
        return (
            f"{best.row.name}, alpha {best.row.alpha:g}",
            bootstrap(best.metric(name)[1::2]),
            bootstrap(plain.metric(name)[1::2]),
        )

    def reaches(attribute: str) -> tuple[str, str]:
        plain, chance = table.named("baselines", "prompt alone"), 1 / len(ATTRIBUTES[attribute])
        if not settings:
            raise Missing("main")
        which, got, without = best_of(settings, plain, f"reference {attribute}")
        numbers = f"{which}: {pct(got)}; chance {chance:.2f}, prompt alone {pct(without)}"
        return numbers, SHOWN_HERE if got[1] > max(chance, without[2]) else NOT_SHOWN

    def fills() -> tuple[str, str]:
        open_ones = [e for e in table.part("half-specified") if e.row.how == "settings"]
        plain = table.named("half-specified", "prompt alone")
        if not open_ones:
            raise Missing("half-specified")
        which, got, without = best_of(open_ones, plain, "similarity")
        return f"{which}: {pct(got)}; prompt alone {pct(without)}", SHOWN_HERE if got[1] > without[2] else NOT_SHOWN

    def trade_off() -> tuple[str, str]:
        found, best = [], None
        for name in CURVES:
            try:
                curve = table.curve(name)
            except Missing:
                continue
            rise, fall = difference(curve[-1], curve[0], "similarity"), difference(curve[-1], curve[0], "adherence")
            if sign(rise) > 0 and sign(fall) < 0:
                found.append(name)
                if best is None or rise[0] > best[1][0]:
                    best = (name, rise, fall)
        if not settings:
            raise Missing("main")
        if best is None:
            return "no setting", NOT_SHOWN
        numbers = f"{', '.join(found)}. Largest: {best[0]}, from alpha 0 to its highest: similarity {_change(best[1])}, adherence {_change(best[2])}"
        return numbers, SHOWN_HERE

    def against_captions() -> tuple[str, str]:
        caption = table.named("baselines", "caption behind the prompt")
        if not settings:
            raise Missing("main")

        def gains(entry: Entry, half: slice) -> list[np.ndarray]:
            count = min(entry.row.pairs, caption.row.pairs)
            return [
                (entry.metric(name)[:count] - caption.metric(name)[:count])[half]
                for name in ("adherence", "similarity")
            ]

        # Measured points alone: where image tokens are inserted, a curve leaps at the smallest alpha, and nothing lies
        # in between.
        best = max(settings, key=lambda e: min(gain.mean() for gain in gains(e, slice(0, None, 2))))
        follows, similar = (bootstrap(gain) for gain in gains(best, slice(1, None, 2)))
        signs = {sign(follows), sign(similar)}
        verdict = {(True, False): "better than the caption", (False, True): "worse than the caption"}.get(
            (1 in signs, -1 in signs), "no clear difference"
        )
        point = (
            f"caption: adherence {pct(caption.interval('adherence'))}, similarity {pct(caption.interval('similarity'))}"
        )
        return (
            f"{point}. {best.row.name}, alpha {best.row.alpha:g}, minus the caption: adherence {_change(follows)}, "
            f"similarity {_change(similar)}",
            verdict,
        )

    listed = [
        (
            "The prompt alone is followed, on combinations that training never showed",
            "colour and background ≥ 0.9, shape ≥ 0.8",
            adherence_at_zero,
        ),
        ("Qwen3-VL describes unseen pictures", "every attribute right ≥ 0.95", captions),
    ]
    for attribute in ("colour", "background", "style", "shape"):
        rule = "the best setting and alpha of the main part on every other pair has, on the rest, its interval above chance and above the prompt alone's"
        listed.append((f"The reference's {attribute} reaches the picture", rule, functools.partial(reaches, attribute)))
    listed += [
        ("What the prompt leaves open the reference "
        "fills", "the best setting for half-specified prompts on every other pair has, on the rest, its "
         "interval of similarity above the prompt alone's", fills),
        ("There is a real "
        "trade-off", "from alpha 0 to the highest, similarity clearly rises and adherence clearly falls", trade_off),
        ("The best setting against a caption of the "
        "reference", "of all measured points the one whose smaller gain over the caption is largest on every "
         "other pair has, on the rest, adherence or similarity clearly higher (better) or lower (worse) and the other "
         "not the other way", against_captions),
    ]  # fmt: skip
    return listed


def _change(interval: Interval) -> str:
    return f"{interval[0]:+.2f} [{interval[1]:+.2f}, {interval[2]:+.2f}]"


def _at_similarity(curve: list[Entry], other: Entry) -> Interval | None:
    """How much higher the curve's adherence is than `other`'s, at `other`'s similarity, with the bootstrap interval
    over pairs.

    Between the curve's points both measures are interpolated. None where the curve never gets there.
    """
    count = min(entry.row.pairs for entry in [*curve, other])
    chosen = np.concatenate([np.arange(count)[None], resamples(count)])
    similar = np.stack(
        [entry.metric("similarity")[:count][chosen].mean(1) for entry in curve], 1
    )  # [resamples, points]
    follows = np.stack([entry.metric("adherence")[:count][chosen].mean(1) for entry in curve], 1)
    wanted, there = (other.metric(name)[:count][chosen].mean(1) for name in ("similarity", "adherence"))
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


def findings(table: Table) -> list[tuple[str, str, Callable[[], tuple[str, str]]]]:
    """The published findings one by one: (claim, rule, what decides)."""

    def normalized(mode: str, alpha: float) -> dict[str, Entry]:
        by_alpha = table.varied("normalization", f"blend {mode}")
        return by_alpha.get(alpha) or by_alpha[max(by_alpha)]

    def dominance() -> tuple[str, str]:
        lines, verdicts = [], []
        plain = table.named("baselines", "prompt alone")
        for name in ("blend text, global", "blend image, per-dim"):
            at = table.named("main", name, 0.3)
            lead = bootstrap(at.metric("similarity") - at.metric("adherence"))
            loss = difference(at, plain, "adherence")
            lines.append(
                f"{name}: adherence {pct(at.interval('adherence'))}, similarity {pct(at.interval('similarity'))}"
            )
            verdicts.append(HOLDS if sign(lead) > 0 else PARTLY if sign(loss) < 0 and loss[0] < -0.1 else FAILS)
        verdict = HOLDS if HOLDS in verdicts else PARTLY if PARTLY in verdicts else FAILS
        return "; ".join(lines), verdict

    def dominance_by_sink() -> tuple[str, str]:
        rows = normalized("image", 0.3)
        share = table.statistics["share"]["image positions"]
        gain = difference(rows["sink_aware"], rows["global"], "adherence")
        alpha = rows["global"].row.alpha
        numbers = (
            f"at alpha 0.3 the image side is {share['global']:.2f} of an ordinary token under global, "
            f"{share['sink_aware']:.2f} under sink_aware; "
            f"adherence at alpha {alpha:g}: global {pct(rows['global'].interval('adherence'))}, sink_aware "
            f"{pct(rows['sink_aware'].interval('adherence'))}"
        )
        if share["global"] > 0.5 and sign(gain) > 0:
            return numbers, "explained by the sink"
        return numbers, "the sizes are, the pictures are not" if share["global"] > 0.5 else "not explained by the sink"

    def fewer_artifacts() -> tuple[str, str]:
        highest = max(e.row.alpha for e in table.curve("blend text, global"))
        text, image = (table.named("main", name, highest) for name in ("blend text, global", "blend image, per-dim"))
        gaps = {name: difference(image, text, name) for name in ("distance", "neither", "unlike")}
        signs = [sign(gap) for gap in gaps.values()]
        numbers = f"image minus text positions at alpha {highest:g}: " + ", ".join(
            f"{name} {_change(gap)}" for name, gap in gaps.items()
        )
        return numbers, HOLDS if 1 in signs and -1 not in signs else PARTLY if 1 in signs else FAILS

    def text_keeps_subject() -> tuple[str, str]:
        highest = max(e.row.alpha for e in table.curve("blend text, global"))
        text, image = (table.named("main", name, highest) for name in ("blend text, global", "blend image, per-dim"))
        shape, gap = text.interval("prompt shape"), difference(text, image, "prompt shape")
        numbers = f"the prompt's shape at alpha {highest:g}: text positions {pct(shape)}, image positions {pct(image.interval('prompt shape'))}"
        return numbers, HOLDS if shape[1] > 0.5 and sign(gap) > 0 else PARTLY if sign(gap) > 0 else FAILS

    def image_carries_style() -> tuple[str, str]:
        highest = max(e.row.alpha for e in table.curve("blend text, global"))
        text, image = (table.named("main", name, highest) for name in ("blend text, global", "blend image, per-dim"))
        gaps = {name: difference(image, text, f"reference {name}") for name in ("style", "background", "colour")}
        numbers = f"the reference's values, image minus text positions at alpha {highest:g}: " + ", ".join(
            f"{n} {_change(g)}" for n, g in gaps.items()
        )
        if sign(gaps["style"]) > 0:
            return numbers, HOLDS
        return numbers, PARTLY if 1 in [sign(g) for g in gaps.values()] else FAILS

    def penultimate() -> tuple[str, str]:
        by_layer, lines, verdicts = table.varied("layer", "blend text"), [], []
        for alpha, rows in by_layer.items():
            best = min(rows, key=lambda layer: rows[layer].metric("distance").mean())
            gap = difference(rows["-2"], rows[best], "distance")
            lines.append(
                f"alpha {alpha:g}: nearest to real pictures is layer {best}, layer -2 is {_change(gap)} further"
            )
            verdicts.append(sign(gap) <= 0)
        return "; ".join(lines), HOLDS if all(verdicts) else PARTLY if any(verdicts) else FAILS

    def cleaner_than_penultimate() -> tuple[str, str]:
        by_layer, lines, signs = table.varied("layer", "blend text"), [], []
        same = str(TEXT["hidden_layer"])
        for alpha, rows in by_layer.items():
            gaps = {name: difference(rows["-2"], rows[same], name) for name in ("distance", "neither")}
            lines.append(
                f"alpha {alpha:g}, layer -2 minus layer {same}: "
                + ", ".join(f"{name} {_change(gap)}" for name, gap in gaps.items())
            )
            signs += [sign(gap) for gap in gaps.values()]
        return "; ".join(lines), HOLDS if 1 in signs and -1 not in signs else PARTLY if 1 in signs else FAILS

    def deep_layers() -> tuple[str, str]:
        by_layer = table.varied("layer", "blend text")
        alpha = max(by_layer)
        rows = by_layer[alpha]
        early, late = (rows[layer] for layer in ("-7", "-2"))
        gaps = {name: difference(early, late, name) for name in ("adherence", "similarity", "neither")}
        numbers = f"layer -7 minus layer -2 at alpha {alpha:g}: " + ", ".join(
            f"{name} {_change(gap)}" for name, gap in gaps.items()
        )
        return numbers, HOLDS if sign(gaps["similarity"]) < 0 else FAILS

    def per_dim(mode: str) -> tuple[str, str]:
        rows = normalized(mode, 0.7)
        gaps = {
            name: difference(rows["per_dim"], rows["global"], name)
            for name in ("adherence", "similarity", "neither", "distance")
        }
        numbers = f"{mode} positions, per_dim minus global at alpha {rows['global'].row.alpha:g}: " + ", ".join(
            f"{n} {_change(g)}" for n, g in gaps.items()
        )
        better = sign(gaps["neither"]) < 0 or sign(gaps["distance"]) < 0
        worse = sign(gaps["neither"]) > 0 or sign(gaps["distance"]) > 0
        if mode == "image":
            return numbers, HOLDS if better and not worse else PARTLY if better else FAILS
        return numbers, HOLDS if not better else FAILS

    def per_dim_by_sink() -> tuple[str, str]:
        rows = normalized("image", 0.7)
        per_dim, plain = (difference(rows[name], rows["global"], "neither") for name in ("per_dim", "sink_aware"))
        rest = difference(rows["per_dim"], rows["sink_aware"], "neither")
        numbers = (
            f"neither's values at alpha {rows['global'].row.alpha:g}: per_dim minus global {_change(per_dim)}, "
            f"sink_aware minus global {_change(plain)}, "
            f"per_dim minus sink_aware {_change(rest)}"
        )
        if sign(per_dim) >= 0:
            return numbers, "nothing to explain here"
        if sign(plain) < 0:
            return numbers, "explained by the sink" if sign(rest) >= 0 else "explained by the sink in part"
        return numbers, "not explained by the sink"

    def correlations() -> tuple[str, str]:
        compared = table.statistics["compared"]
        text, image = (
            compared[f"{where}, layer -2"]["with position 0"] for where in ("text positions", "image positions")
        )
        numbers = f"text positions {text['correlation']:.3f}, worst ratio {text['worst_ratio']:.3g}; image positions {image['correlation']:.3f}, worst ratio "
        numbers += (
            f"{image['worst_ratio']:.3g} (dimensions {', '.join(str(d) for d, _ in image['worst_dimensions'][:2])})"
        )
        high, lower = text["correlation"] > 0.99, image["correlation"] < text["correlation"] - 0.1
        return numbers, HOLDS if high and lower and image["worst_ratio"] > 10 else PARTLY if lower else FAILS

    def correlations_by_sink() -> tuple[str, str]:
        image = table.statistics["compared"]["image positions, layer -2"]
        before, after = image["with position 0"], image["without position 0"]
        numbers = f"image positions with position 0 in the text's statistics: worst ratio {before['worst_ratio']:.3g}, {before['outliers']} dimensions over 10×; "
        numbers += f"without it: {after['worst_ratio']:.3g}, {after['outliers']}; correlation {before['correlation']:.3f} and {after['correlation']:.3f}"
        if before["worst_ratio"] <= 10:
            return numbers, "nothing to explain here"
        return numbers, "explained by the sink" if after["worst_ratio"] < before[
            "worst_ratio"
        ] / 3 else "not explained by the sink"

    def more_alpha_more_artifacts() -> tuple[str, str]:
        lines, verdicts = [], []
        for name in ("blend text, global", "blend image, per-dim"):
            curve = table.curve(name)
            gap = difference(curve[-1], table.named("main", name, 0.3), "distance")
            lines.append(f"{name}: distance at alpha {curve[-1].row.alpha:g} minus at 0.3 {_change(gap)}")
            verdicts.append(sign(gap) > 0)
        return "; ".join(lines), HOLDS if all(verdicts) else PARTLY if any(verdicts) else FAILS

    def raw_tower() -> tuple[str, str]:
        raw = [entry for entry in table.part("vision tower") if entry.row.alpha == 1.0]
        if not raw:
            raise Missing("vision tower")
        best = max(raw, key=lambda entry: entry.metric("similarity").mean())
        model = table.curve("blend image, per-dim")[-1]
        near, far = difference(model, best, "similarity"), difference(best, model, "distance")
        chance = float(np.mean([1 / len(ATTRIBUTES[name]) for name in JUDGED]))
        got = best.interval("similarity")
        numbers = (
            f"best at alpha 1 is {best.row.name}: similarity {pct(got)} (chance {chance:.2f}), distance "
            f"{pct(best.interval('distance'))}, "
            f"unlike {pct(best.interval('unlike'))}; the language model's image positions: similarity {_change(near)} "
            f"more, distance {_change(far)} less"
        )
        if got[1] <= chance:
            return numbers, HOLDS
        return numbers, PARTLY if sign(near) > 0 or sign(far) > 0 else FAILS

    def isolation() -> tuple[str, str]:
        by_alpha = table.varied("token mode", "blend sink-aware")
        rows = by_alpha[max(by_alpha)]
        gaps = {name: difference(rows["image"], rows["all"], name) for name in ("adherence", "similarity", "distance")}
        numbers = f"image minus all positions at alpha {max(by_alpha):g}: " + ", ".join(
            f"{name} {_change(gap)}" for name, gap in gaps.items()
        )
        return numbers, HOLDS if all(abs(gap[0]) < 0.1 for gap in list(gaps.values())[:2]) else FAILS

    def trained_is_better() -> tuple[str, str]:
        adapters = [entry for entry in table.part("baselines") if entry.row.how == "adapter"]
        if not adapters:
            raise Missing("adapter")
        curve = [table.named("baselines", "prompt alone"), *sorted(adapters, key=lambda entry: entry.row.alpha)]
        lines, signs = [], []
        for name in CURVES:
            best = max(
                table.curve(name),
                key=lambda e: (e.metric("adherence") + e.metric("similarity")).mean() if e.row.alpha else 0,
            )
            gap = _at_similarity(curve, best)
            lines.append(
                f"{name} at alpha {best.row.alpha:g}: "
                + ("the adapter is never as similar" if gap is None else _change(gap))
            )
            signs.append(-1 if gap is None else sign(gap))
        verdict = HOLDS if 1 in signs and -1 not in signs else FAILS if set(signs) <= {0, -1} else PARTLY
        return "the adapter's adherence at the same similarity, minus the setting's: " + "; ".join(lines), verdict

    def splice_cleaner() -> tuple[str, str]:
        lines, signs = [], []
        for mine, other in (
            ("splice text", "blend text, sink-aware"),
            ("splice all + insert", "blend image, sink-aware"),
        ):
            a, b = table.curve(mine)[-1], table.curve(other)[-1]
            gaps = {name: difference(a, b, name) for name in ("distance", "neither")}
            lines.append(
                f"{mine} minus {other} at alpha 1: " + ", ".join(f"{name} {_change(gap)}" for name, gap in gaps.items())
            )
            signs += [sign(gap) for gap in gaps.values()]
        return "; ".join(lines), HOLDS if -1 in signs and 1 not in signs else PARTLY if -1 in signs else FAILS

    def dropout() -> tuple[str, str]:
        plain = table.named("diversity", "splice all + insert", 1.0)
        lines, verdicts = [], []
        for share in ("0.75", "0.85", "0.95"):
            gap = difference(table.named("diversity", f"splice all + insert, dropout {share}", 1.0), plain, "diversity")
            lines.append(f"dropout {share}: {_change(gap)}")
            verdicts.append(sign(gap) > 0)
        return "diversity of seeds against no dropout: " + "; ".join(lines), HOLDS if all(verdicts) else PARTLY if any(
            verdicts
        ) else FAILS

    return [
        (
            "At alpha 0.3 the reference dominates the prompt",
            f"similarity clearly over adherence ({HOLDS}); adherence clearly and by over 0.1 below the prompt "
            f"alone's ({PARTLY}); for the recommended text or image setting",
            dominance,
        ),
        (
            "… and the sink explains it",
            "under global the image side has over half of an ordinary token at alpha 0.3, and sink_aware clearly "
            "raises adherence",
            dominance_by_sink,
        ),
        (
            "Text positions give fewer artifacts than image positions",
            "distance, neither or unlike clearly higher for image positions, none clearly lower",
            fewer_artifacts,
        ),
        (
            "Text positions at alpha 1 still give the prompt's subject",
            "the prompt's shape above 0.5 and clearly above image positions'",
            text_keeps_subject,
        ),
        (
            "Image positions carry the style",
            "the reference's style clearly more often than with text positions",
            image_carries_style,
        ),
        ("Layer -2 is best", "no layer is clearly nearer to real pictures, at any alpha measured", penultimate),
        (
            "Layer -8 is cleaner than -2",
            f"distance or neither clearly lower at layer {TEXT['hidden_layer']}, which is as deep as -8, and none "
            "clearly higher",
            cleaner_than_penultimate,
        ),
        (
            "Early layers lose the specific",
            "layer -7 is clearly less similar to the reference than layer -2",
            deep_layers,
        ),
        (
            "Image positions need per-dimension normalization",
            "neither or distance clearly lower than under global, none clearly higher",
            functools.partial(per_dim, "image"),
        ),
        (
            "… and the sink explains it",
            "sink_aware, which is one factor, clearly lowers neither as well; fully where per_dim is not clearly "
            "lower still",
            per_dim_by_sink,
        ),
        (
            "Text positions do not need it",
            "neither and distance not clearly lower than under global",
            functools.partial(per_dim, "text"),
        ),
        (
            "Per-dimension spreads: text positions as the text encoder's, image positions not",
            "correlation over 0.99 for text, lower by 0.1 for image, an outlier over 10×",
            correlations,
        ),
        (
            "… and the sink explains the outliers",
            "without position 0 the worst ratio falls to less than a third",
            correlations_by_sink,
        ),
        (
            "More alpha, more artifacts",
            "distance clearly higher at the highest alpha than at 0.3, text and image",
            more_alpha_more_artifacts,
        ),
        (
            "The raw vision tower fails",
            f"similarity not above chance at alpha 1 ({HOLDS}); clearly less similar or further from real than "
            "the language model's "
            f"image positions ({PARTLY})",
            raw_tower,
        ),
        (
            "Image positions alone or the whole sequence: hardly a difference",
            "adherence and similarity differ by less than 0.1",
            isolation,
        ),
        (
            "A trained adapter is better",
            "adherence at the same similarity clearly higher for some setting's best point, lower for none",
            trained_is_better,
        ),
        (
            "Splice is cleaner than blend",
            "distance or neither clearly lower at alpha 1, none clearly higher",
            splice_cleaner,
        ),
        ("Image dropout makes seeds differ", "diversity clearly higher for each share", dropout),
    ]


def decide(claims: list[tuple[str, str, Callable[[], tuple[str, str]]]]) -> list[Verdict]:
    verdicts = []
    for claim, rule, numbers_of in claims:
        try:
            numbers, verdict = numbers_of()
        except (Missing, KeyError):
            numbers, verdict = "", "not measured"
        verdicts.append(Verdict(claim, rule, numbers, verdict))
    return verdicts
