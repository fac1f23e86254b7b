"""The measurements, one row for each thing a user waits for or pays in memory."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from statistics import median
from typing import Any

import torch

from ...conditioner import condition, extract, extract_all
from ...engines.sources import Sources, Text
from ...mixing.select import Rows
from ...options import BY_NAME, Settings
from ...presets import PRESETS
from ...reference import Reference
from ...store import Bundle, Store
from .bench import MIB, Bench, Row, reference_of
from .captions import captions
from .references import in_words, larger_reference, smaller_reference
from .sides import Naive, Ours, interleaved, nbytes
from .size import side

_VARIED = ("normalization", "length_match", "blend_mode")
# What may change without a new extraction.
GRID = [
    dict(zip(("alpha", *_VARIED), values))
    for values in itertools.product((0.3, 1.0), *(BY_NAME[name].choices for name in _VARIED))
]


def reading(bench: Bench) -> list[Row]:
    """Extractions, and the weights they need, beside the naive way."""
    bench.say("loading")
    naive, (smaller, larger) = Naive(bench.checkpoint), bench.size.references
    rows, seconds = smaller_reference(bench, naive, smaller)
    return [
        *rows,
        larger_reference(bench, naive, larger),
        *_again(bench, smaller, seconds),
        *_weights(bench, nbytes(naive.module)),
        captions(bench, naive, smaller),
    ]


def _again(bench: Bench, image_tokens: int, naive: float) -> list[Row]:
    """The same reference and prompt under other settings of what comes after the extraction."""
    bench.say("the same reference and prompt again")
    reference, text = reference_of(image_tokens), bench.text(0)
    rows = []
    for mode in ("text", "all"):
        settings = [bench.settings(image_tokens, token_mode=mode, **values) for values in GRID]
        sources, passes = bench.sources(), bench.ours.passes
        jobs = {
            str(i): functools.partial(_condition, each, reference, text, sources) for i, each in enumerate(settings)
        }
        seconds = interleaved(jobs, bench.repetitions, lambda line: None)
        passes = bench.ours.passes - passes
        name = f"{len(GRID)} settings of alpha, normalization, length match, blend mode; token mode {mode}"
        slowest, middle = (1000 * each(seconds.values()) for each in (max, median))
        rows += [
            Row(name, "extractions", len(GRID), passes, 1, True, "one at the first, none after it"),
            Row(
                f"… and each of them again, token mode {mode}",
                "ms",
                1000 * naive,
                slowest,
                10,
                True,
                f"the slowest; the median one takes {middle:.2g} ms",
            ),
        ]
    return rows


def _condition(settings: Settings, reference: Reference, text: Text, sources: Sources, number: int) -> torch.Tensor:
    return condition(settings, reference, text, sources)


def _weights(bench: Bench, whole: int) -> list[Row]:
    """What is loaded for one extraction of each engine."""
    bench.say("weights")
    image_tokens = bench.size.references[0]
    blend, splice = Ours(bench.checkpoint), Ours(bench.checkpoint)
    extract(bench.settings(image_tokens), reference_of(image_tokens), bench.text(0), bench.sources(blend))
    splice.image_tokens(reference_of(image_tokens), image_tokens)
    return [
        Row(f"weights read and held, layer {bench.size.layer}", "MiB", whole / MIB, blend.held / MIB, 0.84,
            note="the input embedding stays in the file, where a token's row is looked up"),
        Row("weights read and held, splice", "MiB", whole / MIB, splice.held / MIB, 0.10,
            note="the vision tower; the image model's own text encoder reads"),
    ]  # fmt: skip


def storage(bench: Bench) -> list[Row]:
    """The language model's weights in fp8 beside bf16."""
    bench.say("weights in fp8")
    image_tokens = bench.size.references[0]
    reference, settings, worst = reference_of(image_tokens), bench.settings(image_tokens), []
    sides = {"bf16": Ours(bench.checkpoint), "fp8": Ours(bench.checkpoint, "fp8")}

    def check(number: int, results: dict[str, Rows]) -> None:
        fp8, bf16 = results["fp8"].states, results["bf16"].states
        worst.append(float((fp8 - bf16).norm() / bf16.norm()))

    jobs = {
        name: lambda n, each=each: extract(settings, reference, bench.text(n), bench.sources(each))
        for name, each in sides.items()
    }
    seconds = interleaved(jobs, bench.repetitions, bench.say, check)
    note = "bf16 instead of the naive way"
    return [
        Row("storage fp8: weights held", "MiB", sides["bf16"].held / MIB, sides["fp8"].held / MIB, note=note),
        Row(
            "storage fp8: first extraction",
            "s",
            seconds["bf16"],
            seconds["fp8"],
            note=f"{note}; {in_words(max(worst))}",
        ),
    ]


class _Watched(Store):
    """Knows the most it has ever held, and what came in, in bytes."""

    most = offered = 0

    def put(self, key: Any, value: Bundle, lasting: bool = True) -> None:
        super().put(key, value, lasting)
        self.most = max(self.most, self.size)
        self.offered += sum(tensor.nbytes for tensor in value.values())


def memory(bench: Bench) -> list[Row]:
    """What is kept between pictures."""
    bench.say("what is kept")
    image_tokens, small = bench.size.references[0], 16
    one, first = _Watched(), _Watched()
    extract(bench.settings(image_tokens), reference_of(image_tokens), bench.text(0), bench.sources(store=one))
    extract(bench.settings(small), reference_of(small), bench.text(0), bench.sources(store=first))
    references, prompts = 4, 6
    store = _Watched(limit=3 * first.size)
    for number in range(references):
        extract_all(
            bench.settings(small),
            reference_of(small, number),
            [bench.text(n) for n in range(prompts)],
            bench.sources(store=store),
        )
    note = (
        f"{references} references with {prompts} prompts each, {store.offered / MIB:.3g} MiB in all, "
        f"under a limit of {store.limit / MIB:.3g} MiB"
    )
    return [
        Row("kept in memory, the most at any time", "MiB", None, store.most / MIB, store.limit / MIB, True, note),
        Row(
            f"kept for one {side(image_tokens)}² reference with a prompt",
            "MiB",
            None,
            one.size / MIB,
            note="states and keys and values of every layer",
        ),
    ]


def conditioning(bench: Bench) -> Row:
    """How long the conditioning becomes with the presets of engine blend."""
    names = [name for name, preset in PRESETS.items() if preset["engine"] == "blend"]
    sources, text = bench.sources(), bench.text(0)
    lengths = []
    for name in names:
        settings = dataclasses.replace(Settings().changed({"preset": name}), hidden_layer=bench.size.layer)
        lengths.append(len(condition(settings, reference_of(bench.size.references[0]), text, sources)))
    note = f"{', '.join(names)}: no token is added, so the step is the same"
    return Row("sampling step, presets of engine blend", "tokens", bench.size.text_tokens, max(lengths), 1.0, note=note)
