"""Findings about alpha and about which positions of the sequence are taken."""

from __future__ import annotations

from ....intervals import bootstrap, sign
from ..table import Table, difference, with_interval
from .claim import (
    BY_SINK,
    FAILS,
    HOLDS,
    NOT_BY_SINK,
    PARTLY,
    PROMPT_ALONE,
    Judged,
    by_signs,
    in_part,
    normalizations,
    signed,
    signed_list,
    text_and_image_at_highest_alpha,
)


def reference_dominates(table: Table) -> Judged:
    plain = table.named(*PROMPT_ALONE)
    lines, verdicts = [], []
    for name in ("blend text, global", "blend image, per-dim"):
        mixed = table.named("main", name, 0.3)
        lead = bootstrap(mixed.metric("similarity") - mixed.metric("adherence"))
        loss = difference(mixed, plain, "adherence")
        follows, similar = (with_interval(mixed.interval(measure)) for measure in ("adherence", "similarity"))
        lines.append(f"{name}: adherence {follows}, similarity {similar}")
        verdicts.append(HOLDS if sign(lead) > 0 else PARTLY if sign(loss) < 0 and loss[0] < -0.1 else FAILS)
    verdict = HOLDS if HOLDS in verdicts else PARTLY if PARTLY in verdicts else FAILS
    return "; ".join(lines), verdict


def dominance_by_sink(table: Table) -> Judged:
    rows = normalizations(table, "image", 0.3)
    share = table.statistics["share"]["image positions"]
    gain = difference(rows["sink_aware"], rows["global"], "adherence")
    plain, sink_aware = (with_interval(rows[name].interval("adherence")) for name in ("global", "sink_aware"))
    numbers = (
        f"at alpha 0.3 the image side is {share['global']:.2f} of an ordinary token under global, "
        f"{share['sink_aware']:.2f} under sink_aware; "
        f"adherence at alpha {rows['global'].row.alpha:g}: global {plain}, sink_aware {sink_aware}"
    )
    if share["global"] > 0.5:
        return numbers, BY_SINK if sign(gain) > 0 else "the sizes are, the pictures are not"
    return numbers, NOT_BY_SINK


def text_has_fewer_artifacts(table: Table) -> Judged:
    text, image = text_and_image_at_highest_alpha(table)
    gaps = {name: difference(image, text, name) for name in ("distance", "neither", "unlike")}
    numbers = f"image minus text positions at alpha {text.row.alpha:g}: {signed_list(gaps)}"
    return numbers, by_signs([sign(gap) for gap in gaps.values()])


def text_keeps_subject(table: Table) -> Judged:
    text, image = text_and_image_at_highest_alpha(table)
    of_text, of_image = (entry.interval("prompt shape") for entry in (text, image))
    gap = difference(text, image, "prompt shape")
    numbers = (
        f"the prompt's shape at alpha {text.row.alpha:g}: text positions {with_interval(of_text)}, "
        f"image positions {with_interval(of_image)}"
    )
    if sign(gap) <= 0:
        return numbers, FAILS
    return numbers, HOLDS if of_text[1] > 0.5 else PARTLY


def image_carries_style(table: Table) -> Judged:
    text, image = text_and_image_at_highest_alpha(table)
    gaps = {name: difference(image, text, f"reference {name}") for name in ("style", "background", "colour")}
    numbers = f"the reference's values, image minus text positions at alpha {text.row.alpha:g}: {signed_list(gaps)}"
    if sign(gaps["style"]) > 0:
        return numbers, HOLDS
    return numbers, PARTLY if 1 in [sign(gap) for gap in gaps.values()] else FAILS


def more_alpha_more_artifacts(table: Table) -> Judged:
    lines, met = [], []
    for name in ("blend text, global", "blend image, per-dim"):
        highest = table.curve(name)[-1]
        gap = difference(highest, table.named("main", name, 0.3), "distance")
        lines.append(f"{name}: distance at alpha {highest.row.alpha:g} minus at 0.3 {signed(gap)}")
        met.append(sign(gap) > 0)
    return "; ".join(lines), in_part(met)


def image_alone_or_all(table: Table) -> Judged:
    by_alpha = table.varied("token mode", "blend sink-aware")
    alpha = max(by_alpha)
    rows = by_alpha[alpha]
    gaps = {name: difference(rows["image"], rows["all"], name) for name in ("adherence", "similarity", "distance")}
    numbers = f"image minus all positions at alpha {alpha:g}: {signed_list(gaps)}"
    return numbers, HOLDS if all(abs(gaps[name][0]) < 0.1 for name in ("adherence", "similarity")) else FAILS
