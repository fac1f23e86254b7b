"""What the miniature must show before its numbers say anything, and what the product promises."""

from __future__ import annotations

import functools

import numpy as np

from ....intervals import Interval, bootstrap, sign
from ...miniature.world import ATTRIBUTES
from ..experiments import CHOSEN_BLOCKS, CURVES
from ..table import Entry, Missing, Table, caption_accuracy, difference, with_interval
from . import weight
from .claim import NOT_SHOWN, PROMPT_ALONE, SHOWN, Claim, Judged, signed

# Where the best of many settings is looked for, it is chosen on every other pair and measured on the rest: the same
# pairs for both would favour whatever was lucky on them.
CHOSEN_ON, MEASURED_ON = slice(0, None, 2), slice(1, None, 2)


def of_settings(table: Table, part: str) -> list[Entry]:
    """The entries of a part that were made with the product's settings."""
    entries = [entry for entry in table.part(part) if entry.row.how == "settings"]
    if not entries:
        raise Missing(part)
    return entries


def best_of(entries: list[Entry], plain: Entry, measure: str) -> tuple[str, Interval, Interval]:
    """The entry with most of a measure on every other pair, and what it and the prompt alone have on the rest."""
    best = max(entries, key=lambda entry: entry.metric(measure)[CHOSEN_ON].mean())
    got, without = (bootstrap(entry.metric(measure)[MEASURED_ON]) for entry in (best, plain))
    return f"{best.row.name}, alpha {best.row.alpha:g}", got, without


def prompt_is_followed(table: Table) -> Judged:
    plain = table.named(*PROMPT_ALONE)
    least = {"colour": 0.9, "background": 0.9, "shape": 0.8}
    got = {name: plain.interval(f"prompt {name}") for name in (*least, "style")}
    numbers = ", ".join(f"{name} {with_interval(interval)}" for name, interval in got.items())
    return numbers, SHOWN if all(got[name][0] >= share for name, share in least.items()) else NOT_SHOWN


def captions_are_right(table: Table) -> Judged:
    right = caption_accuracy(table)
    numbers = ", ".join(f"{name} {with_interval(interval)}" for name, interval in right.items())
    return numbers, SHOWN if all(interval[0] >= 0.95 for interval in right.values()) else NOT_SHOWN


def attribute_reaches_picture(table: Table, attribute: str) -> Judged:
    plain, chance = table.named(*PROMPT_ALONE), 1 / len(ATTRIBUTES[attribute])
    which, got, without = best_of(of_settings(table, "main"), plain, f"reference {attribute}")
    numbers = f"{which}: {with_interval(got)}; chance {chance:.2f}, prompt alone {with_interval(without)}"
    return numbers, SHOWN if got[1] > max(chance, without[2]) else NOT_SHOWN


def open_attributes_are_filled(table: Table) -> Judged:
    plain = table.named("half-specified", "prompt alone")
    which, got, without = best_of(of_settings(table, "half-specified"), plain, "similarity")
    return f"{which}: {with_interval(got)}; prompt alone {with_interval(without)}", SHOWN if got[1] > without[
        2
    ] else NOT_SHOWN


def trade_off(table: Table) -> Judged:
    of_settings(table, "main")  # without any nothing is claimed
    changes: dict[str, tuple[Interval, Interval]] = {}
    for name in CURVES:
        try:
            curve = table.curve(name)
        except Missing:
            continue
        rise, fall = (difference(curve[-1], curve[0], measure) for measure in ("similarity", "adherence"))
        if sign(rise) > 0 and sign(fall) < 0:
            changes[name] = rise, fall
    if not changes:
        return "no setting", NOT_SHOWN
    largest = max(changes, key=lambda name: changes[name][0][0])
    rise, fall = changes[largest]
    return (
        f"{', '.join(changes)}. Largest: {largest}, from alpha 0 to its highest: similarity {signed(rise)}, "
        f"adherence {signed(fall)}",
        SHOWN,
    )


def against_captions(table: Table, part: str) -> Judged:
    caption = table.named("baselines", "caption behind the prompt")

    def gains(entry: Entry, which: slice) -> list[np.ndarray]:
        count = min(entry.row.pairs, caption.row.pairs)
        return [
            (entry.metric(name)[:count] - caption.metric(name)[:count])[which] for name in ("adherence", "similarity")
        ]

    # Measured points alone: where image tokens are inserted, a curve leaps at the smallest alpha, and nothing lies in
    # between.
    best = max(of_settings(table, part), key=lambda entry: min(gain.mean() for gain in gains(entry, CHOSEN_ON)))
    follows, similar = (bootstrap(gain) for gain in gains(best, MEASURED_ON))
    signs = {sign(follows), sign(similar)}
    verdict = {(True, False): "better than the caption", (False, True): "worse than the caption"}.get(
        (1 in signs, -1 in signs), "no clear difference"
    )
    of_caption = {name: with_interval(caption.interval(name)) for name in ("adherence", "similarity")}
    named = best.row.name if part == "weight" else f"{best.row.name}, alpha {best.row.alpha:g}"
    numbers = (
        f"caption: adherence {of_caption['adherence']}, similarity {of_caption['similarity']}. "
        f"{named}, minus the caption: adherence {signed(follows)}, "
        f"similarity {signed(similar)}"
    )
    return numbers, verdict


def chosen_settings_beat_caption(table: Table) -> Judged:
    """Of settings that were chosen on other pairs: is there one that keeps both, and has clearly more of one?"""
    caption = table.named("beside a caption", "caption behind the prompt")
    lines, met = [], []
    for entry in of_settings(table, "beside a caption"):
        gains = [difference(entry, caption, name) for name in ("adherence", "similarity")]
        met.append(all(gain[0] >= 0 for gain in gains) and any(sign(gain) > 0 for gain in gains))
        lines.append(f"{entry.row.name}: adherence {signed(gains[0])}, similarity {signed(gains[1])}")
    had = ", ".join(f"{name} {with_interval(caption.interval(name))}" for name in ("adherence", "similarity"))
    return f"caption: {had}. Minus the caption, {'; '.join(lines)}", SHOWN if any(met) else NOT_SHOWN


_REACHES = (
    "the best setting and alpha of the main part on every other pair has, on the rest, its interval above chance and "
    "above the prompt alone's"
)
MUST_SHOW = (
    Claim(
        "The prompt alone is followed, on combinations that training never showed",
        "colour and background ≥ 0.9, shape ≥ 0.8",
        prompt_is_followed,
    ),
    Claim("Qwen3-VL describes unseen pictures", "every attribute right ≥ 0.95", captions_are_right),
    *(
        Claim(
            f"The reference's {attribute} reaches the picture",
            _REACHES,
            functools.partial(attribute_reaches_picture, attribute=attribute),
        )
        for attribute in ("colour", "background", "style", "shape")
    ),
    Claim(
        "What the prompt leaves open the reference fills",
        "the best setting for half-specified prompts on every other pair has, on the rest, its interval of similarity "
        "above the prompt alone's",
        open_attributes_are_filled,
    ),
    Claim(
        "There is a real trade-off",
        "from alpha 0 to the highest, similarity clearly rises and adherence clearly falls",
        trade_off,
    ),
    Claim(
        "The best setting against a caption of the reference",
        "of all measured points the one whose smaller gain over the caption is largest on every other pair has, on the "
        "rest, adherence or similarity clearly higher (better) or lower (worse) and the other not the other way",
        functools.partial(against_captions, part="main"),
    ),
    Claim(
        "The best weight against a caption of the reference",
        "as above, of all points of the curves over weight",
        functools.partial(against_captions, part="weight"),
    ),
    Claim(
        "A setting does better than a caption of the reference",
        f"{len(CHOSEN_BLOCKS)} settings chosen on other pairs: for one of them neither adherence nor similarity is "
        "lower than the caption's, and one is clearly higher",
        chosen_settings_beat_caption,
    ),
    Claim(
        "Weight dials the reference",
        "from no weight to the next larger one similarity clearly falls, and from the smallest to the largest it "
        "clearly rises, on every curve",
        weight.dials_the_reference,
    ),
    Claim(
        "A weight towards 0 tends to the plain picture",
        "mean pixel distance at the smallest weight at most 1 % of that at weight 1, on every curve",
        weight.tends_to_plain,
    ),
    Claim(
        "The fresh panel's preset is balanced",
        "similarity ≥ 0.25 at adherence ≥ 0.5",
        weight.start_is_balanced,
    ),
)
