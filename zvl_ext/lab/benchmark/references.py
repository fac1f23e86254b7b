"""What reading a reference takes beside the naive way, with hidden states that are compared every time."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ...conditioner import extract
from ...mixing.select import Rows, select
from ...reference import Reference
from ...sequence import TOKEN_MODES, Sequence
from .bench import Bench, Row, reference_of
from .sides import Naive, counted, difference, interleaved
from .size import side

ANOTHER_PROMPT = 10**6  # the number of a prompt that is not measured: after it the reference is known
IMAGE_ONLY = tuple(name for name, mode in TOKEN_MODES.items() if not mode.text)


@dataclass(frozen=True)
class NaiveStates:
    """What the naive way makes of one prompt and reference.

    Attributes:
        sequence: What was read.
        states: By layer, [1, tokens, hidden] each.
    """

    sequence: Sequence
    states: tuple[torch.Tensor, ...]

    def difference(self, rows: Rows, layer: int, mode: str, what: str) -> float:
        """The relative difference of rows that a token mode has selected; `what` names them in a refusal."""
        return difference(rows.states, select(self.states[layer][0], self.sequence, mode).states, what)


@dataclass
class Found:
    """What is seen in the results of all repetitions: of each job the worst.

    Attributes:
        difference: Relative, of hidden states.
        layers: How many layers ran, by token mode.
        runs: How often a layer ran for each token, by the order of the layers.
    """

    difference: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    layers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    runs: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def differs(self, name: str, *relative: float) -> None:
        self.difference[name] = max(self.difference[name], *relative)


def naive_pass(bench: Bench, naive: Naive, reference: Reference) -> Callable[[int], tuple[torch.Tensor, ...]]:
    """A job of the naive way; its inputs are made beforehand."""
    inputs = [naive.inputs(bench.sequence(bench.text(n), reference), reference) for n in range(bench.repetitions + 1)]
    return lambda number: naive(inputs[number])


def in_words(relative: float) -> str:
    """A relative difference of hidden states."""
    return f"hidden states differ by {100 * relative:.2g} %" if relative else "the same hidden states, bit for bit"


def smaller_reference(bench: Bench, naive: Naive, image_tokens: int) -> tuple[list[Row], float]:
    """All ways to read one reference; and the seconds that the naive way takes."""
    size, reference = bench.size, reference_of(image_tokens)
    settings = functools.partial(bench.settings, image_tokens)
    kept = bench.sources()
    extract(settings(), reference, bench.text(ANOTHER_PROMPT), kept)

    def over_layers(order: tuple[int, ...], number: int) -> tuple[dict[int, Rows], Counter[int]]:
        sources, text = bench.sources(), bench.text(number)
        with counted() as read:
            return {layer: extract(settings(hidden_layer=layer), reference, text, sources) for layer in order}, read

    def image_only(mode: str, number: int) -> tuple[Rows, Counter[int]]:
        with counted() as read:
            return extract(settings(token_mode=mode), reference, bench.text(number), kept), read

    orders = {"falling": size.layers, "rising": size.layers[::-1]}
    bench.say(f"{side(image_tokens)}² reference")
    found = Found()
    tokens = image_tokens + 2 + size.text_tokens

    def check(number: int, results: dict[str, Any]) -> None:
        plain = NaiveStates(bench.sequence(bench.text(number), reference), results["naive"])
        for name in ("first", "new prompt"):
            found.differs(name, plain.difference(results[name], size.layer, "text", name))
        for mode in IMAGE_ONLY:
            rows, read = results[mode]
            found.differs(mode, plain.difference(rows, size.layer, mode, mode))
            found.layers[mode] = max(found.layers[mode], len(read))
        for name in orders:
            each, read = results[name]
            found.differs(
                name, *(plain.difference(rows, layer, "text", f"layer {layer}") for layer, rows in each.items())
            )
            found.runs[name] = max(found.runs[name], max(read.values()) / tokens)

    jobs = {
        "naive": naive_pass(bench, naive, reference),
        "first": lambda n: extract(settings(), reference, bench.text(n), bench.sources()),
        "new prompt": lambda n: extract(settings(), reference, bench.text(n), kept),
        **{mode: functools.partial(image_only, mode) for mode in IMAGE_ONLY},
        **{name: functools.partial(over_layers, order) for name, order in orders.items()},
    }
    seconds = interleaved(jobs, bench.repetitions, bench.say, check)
    rows = [
        *_extractions(bench, image_tokens, seconds, found),
        *(row for name in orders for row in _grid(bench, name, seconds, found)),
    ]
    return rows, seconds["naive"]


def _extractions(bench: Bench, image_tokens: int, seconds: dict[str, float], found: Found) -> list[Row]:
    size, checkpoint, at = bench.size, bench.checkpoint, f"{side(image_tokens)}²"
    whole, tokens, depth = seconds["naive"], image_tokens + 2 + size.text_tokens, checkpoint.depth(size.layer)
    differ = {name: in_words(relative) for name, relative in found.difference.items()}
    rows = [
        Row(f"first extraction, layer {size.layer}, {at}", "s", whole, seconds["first"], 0.75,
            note=f"{tokens} tokens, {depth} of {checkpoint.layers} layers; {differ['first']}"),
        Row(f"new prompt, same reference, {at}", "s", whole, seconds["new prompt"], 0.15, note=differ["new prompt"]),
    ]  # fmt: skip
    for mode in IMAGE_ONLY:
        note = f"{1000 * seconds[mode]:.3g} ms beside {whole:.3g} s; {differ[mode]}"
        ran = found.layers[mode]
        rows.append(Row(f"new prompt, token mode {mode}", "layers", checkpoint.layers, ran, 0, True, note))
    return rows


def _grid(bench: Bench, order: str, seconds: dict[str, float], found: Found) -> list[Row]:
    count = len(bench.size.layers)
    name, note = (
        f"grid over {count} hidden layers, {order}",
        f"{count} naive passes; {in_words(found.difference[order])}",
    )
    runs = found.runs[order]
    return [
        Row(name, "s", count * seconds["naive"], seconds[order], note=note),
        Row(f"{name}: runs of a layer for each token", "runs", count, runs, 1, True, "the most of any layer"),
    ]


def larger_reference(bench: Bench, naive: Naive, image_tokens: int) -> Row:
    """Another prompt beside the naive way."""
    reference, settings, kept = reference_of(image_tokens), bench.settings(image_tokens), bench.sources()
    name = "new prompt"
    at = f"{side(image_tokens)}²"
    bench.say(f"{at} reference")
    extract(settings, reference, bench.text(ANOTHER_PROMPT), kept)
    found = Found()

    def check(number: int, results: dict[str, Any]) -> None:
        plain = NaiveStates(bench.sequence(bench.text(number), reference), results["naive"])
        found.differs(name, plain.difference(results[name], bench.size.layer, "text", name))

    jobs = {
        "naive": naive_pass(bench, naive, reference),
        name: lambda n: extract(settings, reference, bench.text(n), kept),
    }
    seconds = interleaved(jobs, min(bench.repetitions, 2), bench.say, check)  # the naive way takes long here
    note = in_words(found.difference[name])
    return Row(f"{name}, same reference, {at}", "s", seconds["naive"], seconds[name], 0.05, note=note)
