"""The measurements, one row for each thing a user waits for or pays in memory."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...conditioner import condition, extract, extract_all
from ...engines.sources import Sources, Text
from ...mixing.select import Rows, select
from ...mixing.statistics import measure
from ...options import BY_NAME, Settings
from ...presets import PRESETS
from ...qwen3vl.checkpoint import Checkpoint
from ...reference import Reference, open_reference
from ...sequence import HEAD, TAIL, TOKEN_MODES, Sequence, build_sequence
from ...store import Bundle, Store
from .sides import Naive, Ours, counted, difference, interleaved, nbytes
from .size import Size, side

MIB = 2**20
_VARIED = ("normalization", "length_match", "blend_mode")
# What may change without a new extraction.
GRID = [
    dict(zip(("alpha", *_VARIED), values))
    for values in itertools.product((0.3, 1.0), *(BY_NAME[name].choices for name in _VARIED))
]

IMAGE_ONLY = tuple(name for name, mode in TOKEN_MODES.items() if not mode.text)


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        naive: What the naive way takes; None where there is nothing to compare with.
        ours: What this product takes; None where it was not measured, and the note says why.
        unit: Of both.
        target: At most.
        absolute: The target is for `ours` itself, not for the ratio.
    """

    name: str
    unit: str
    naive: float | None
    ours: float | None
    target: float | None = None
    absolute: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.ours is None or not self.naive else self.ours / self.naive

    @property
    def met(self) -> bool | None:
        """None without a target or a measurement."""
        value = self.ours if self.absolute else self.ratio
        return None if value is None or self.target is None else value <= self.target

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"ratio": self.ratio, "met": self.met}


@functools.cache
def reference_of(image_tokens: int, number: int = 0) -> Reference:
    """A square picture of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (side(image_tokens), side(image_tokens), 3))
    return open_reference(Image.fromarray(pixels.astype(np.uint8)))


class Bench:
    """Weights, references and prompts that both sides get.

    Args:
        say: Takes lines about the progress.
    """

    def __init__(self, size: Size, checkpoint: Checkpoint, repetitions: int, say: Callable[[str], None]):
        self.size = size
        self.checkpoint = checkpoint
        self.repetitions = repetitions
        self.say = say
        self.ours = Ours(checkpoint)
        self.statistics = measure(self.embeddings(10**6, 256))

    def encode(self, text: str) -> list[int]:
        """Ids of the template's parts: the words among them are any, the weights know none."""
        start, end = self.size.special, self.size.special + 1
        return {HEAD: [start, 1, 2], TAIL: [end, 2, start, 3, 2]}[text]

    def text(self, number: int) -> Text:
        """A prompt of random tokens with random text embeddings."""
        random = np.random.default_rng(number)
        head, tail = self.encode(HEAD), self.encode(TAIL)
        words = random.integers(self.size.special, size=self.size.text_tokens - len(head) - len(tail)).tolist()
        return Text(f"prompt {number}", (*head, *words, *tail), self.embeddings(number, self.size.text_tokens))

    def embeddings(self, number: int, count: int) -> torch.Tensor:
        return torch.randn(count, self.checkpoint.hidden_size, generator=torch.Generator().manual_seed(number))

    def sequence(self, text: Text, reference: Reference) -> Sequence:
        grid = self.checkpoint.grid(reference, self.size.references[1])
        return build_sequence(text.ids, grid, self.encode, vision=self.checkpoint.vision_tokens)

    def settings(self, image_tokens: int, **more: Any) -> Settings:
        return Settings(**{"hidden_layer": self.size.layer, "reference_tokens": image_tokens} | more)

    def sources(self, extractor: Ours | None = None, store: Store | None = None) -> Sources:
        """With an empty store of default size, unless another one is given."""
        return Sources(extractor or self.ours, self.encode, lambda: self.statistics, None, store or Store())


def reading(bench: Bench) -> list[Row]:
    """Extractions, and the weights they need, beside the naive way."""
    bench.say("loading")
    naive, (smaller, larger) = Naive(bench.checkpoint), bench.size.references
    rows, seconds = _smaller_reference(bench, naive, smaller)
    return [
        *rows,
        _larger_reference(bench, naive, larger),
        *_again(bench, smaller, seconds),
        *_weights(bench, nbytes(naive.module)),
    ]


def _plain(bench: Bench, naive: Naive, reference: Reference) -> Callable[[int], tuple[torch.Tensor, ...]]:
    inputs = [naive.inputs(bench.sequence(bench.text(n), reference), reference) for n in range(bench.repetitions + 1)]
    return lambda n: naive(inputs[n])


def _compare(
    bench: Bench,
    reference: Reference,
    number: int,
    plain: tuple[torch.Tensor, ...],
    rows: Rows,
    layer: int,
    mode: str,
    what: str,
) -> float:
    return difference(
        rows.states, select(plain[layer][0], bench.sequence(bench.text(number), reference), mode).states, what
    )


def _smaller_reference(bench: Bench, naive: Naive, image_tokens: int) -> tuple[list[Row], float]:
    """All ways to read one reference; and the seconds that the naive way takes."""
    size, checkpoint, reference = bench.size, bench.checkpoint, reference_of(image_tokens)
    settings = functools.partial(bench.settings, image_tokens)
    kept = bench.sources()
    extract(settings(), reference, bench.text(10**6), kept)  # another prompt: the reference is known from now on

    def over_layers(order: tuple[int, ...], number: int) -> tuple[dict[int, Rows], Counter[int]]:
        sources, text = bench.sources(), bench.text(number)
        with counted() as read:
            return {layer: extract(settings(hidden_layer=layer), reference, text, sources) for layer in order}, read

    def image_only(mode: str, number: int) -> tuple[Rows, Counter[int]]:
        with counted() as read:
            return extract(settings(token_mode=mode), reference, bench.text(number), kept), read

    orders = {"falling": size.layers, "rising": size.layers[::-1]}
    bench.say(f"{side(image_tokens)}² reference")
    worst: dict[str, float] = defaultdict(float)  # relative differences of hidden states
    layers_run: dict[str, int] = {}
    runs: dict[str, float] = {}
    tokens = image_tokens + 2 + size.text_tokens

    def check(number: int, results: dict[str, Any]) -> None:
        compare = functools.partial(_compare, bench, reference, number, results["naive"])
        for name in ("first", "new prompt"):
            worst[name] = max(worst[name], compare(results[name], size.layer, "text", name))
        for mode in IMAGE_ONLY:
            rows, read = results[mode]
            worst[mode] = max(worst[mode], compare(rows, size.layer, mode, mode))
            layers_run[mode] = max(layers_run.get(mode, 0), len(read))
        for name in orders:
            each, read = results[name]
            worst[name] = max(
                worst[name], *(compare(rows, layer, "text", f"layer {layer}") for layer, rows in each.items())
            )
            runs[name] = max(runs.get(name, 0), max(read.values()) / tokens)

    jobs = {
        "naive": _plain(bench, naive, reference),
        "first": lambda n: extract(settings(), reference, bench.text(n), bench.sources()),
        "new prompt": lambda n: extract(settings(), reference, bench.text(n), kept),
        **{mode: functools.partial(image_only, mode) for mode in IMAGE_ONLY},
        **{name: functools.partial(over_layers, order) for name, order in orders.items()},
    }
    seconds = interleaved(jobs, bench.repetitions, bench.say, check)
    whole, at, differ = (
        seconds["naive"],
        f"{side(image_tokens)}²",
        {name: _differ(value) for name, value in worst.items()},
    )
    depth = checkpoint.depth(size.layer)
    rows = [
        Row(f"first extraction, layer {size.layer}, {at}", "s", whole, seconds["first"], 0.75,
            note=f"{tokens} tokens, {depth} of {checkpoint.layers} layers; {differ['first']}"),
        Row(f"new prompt, same reference, {at}", "s", whole, seconds["new prompt"], 0.15, note=differ["new prompt"]),
    ]  # fmt: skip
    for mode in IMAGE_ONLY:
        note = f"{1000 * seconds[mode]:.3g} ms beside {whole:.3g} s; {differ[mode]}"
        rows.append(Row(f"new prompt, token mode {mode}", "layers", checkpoint.layers, layers_run[mode], 0, True, note))
    count = len(size.layers)
    for name in orders:
        rows += [
            Row(
                f"grid over {count} hidden layers, {name}",
                "s",
                count * whole,
                seconds[name],
                note=f"{count} naive passes; {differ[name]}",
            ),
            Row(
                f"grid over {count} hidden layers, {name}: runs of a layer for each token",
                "runs",
                count,
                runs[name],
                1,
                True,
                "the most of any layer",
            ),
        ]
    return rows, whole


def _larger_reference(bench: Bench, naive: Naive, image_tokens: int) -> Row:
    reference, settings, kept = reference_of(image_tokens), bench.settings(image_tokens), bench.sources()
    at = f"{side(image_tokens)}²"
    bench.say(f"{at} reference")
    extract(settings, reference, bench.text(10**6), kept)
    worst = []

    def check(number: int, results: dict[str, Any]) -> None:
        worst.append(
            _compare(
                bench,
                reference,
                number,
                results["naive"],
                results["new prompt"],
                bench.size.layer,
                "text",
                "new prompt",
            )
        )

    jobs = {
        "naive": _plain(bench, naive, reference),
        "new prompt": lambda n: extract(settings, reference, bench.text(n), kept),
    }
    seconds = interleaved(jobs, min(bench.repetitions, 2), bench.say, check)  # the naive way takes long here
    return Row(
        f"new prompt, same reference, {at}",
        "s",
        seconds["naive"],
        seconds["new prompt"],
        0.05,
        note=_differ(max(worst)),
    )


def _differ(relative: float) -> str:
    return f"hidden states differ by {100 * relative:.2g} %" if relative else "the same hidden states, bit for bit"


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
            note="the input embedding stays in the mapped file, where a token's row is looked up"),
        Row("weights read and held, "
        "splice", "MiB", whole / MIB, splice.held / MIB, 0.10, note="the vision tower; the image model's own text "
        "encoder reads"),
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
            "storage fp8: first extraction", "s", seconds["bf16"], seconds["fp8"], note=f"{note}; {_differ(max(worst))}"
        ),
    ]


class _Watched(Store):
    """Knows the most it has ever held, and what came in, in bytes."""

    most = offered = 0

    def put(self, key: Any, value: Bundle) -> None:
        super().put(key, value)
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
    note = f"{references} references with {prompts} prompts each, {store.offered / MIB:.3g} MiB in all, under a limit of {store.limit / MIB:.3g} MiB"
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
