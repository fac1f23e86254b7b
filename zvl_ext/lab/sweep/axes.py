"""What a sweep runs over: names with their values, read from texts such as "weight=0:1:0.2"."""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Any

from ...analysis.wanted import SAMPLED
from ...declaration import Option
from ...errors import ZvlError, shown, untitled
from ...options import BY_NAME

MOST = 10_000  # values of one axis
SEEDS = 2**32

# What is asked of every picture besides the options, by name. cfg is counted as web UIs do: 1 is none.
ASKED = {
    option.name: option
    for option in (
        Option("prompt", "text", "", "Prompt", "What the picture shows."),
        Option("negative_prompt", "text", "", "Negative prompt", "What it does not; acts with cfg above 1."),
        *(SAMPLED[name] for name in ("seed", "steps", "cfg")),
        Option("size", "integer", 1024, "Size", "Width and height in pixels.", minimum=64, maximum=2048),
    )
}
# What decides in which order cells are made, besides the axes' own costs: what loads weights, then what is read.
_LOADS, _READS, _PROMPT, _SEED = 3.0, 2.0, 0.1, -1.0
_COSTS = {
    "model": _LOADS, "device": _LOADS, "storage": _LOADS, "prompt": _PROMPT, "vl_prompt": _PROMPT,
    "system_prompt": _PROMPT, "seed": _SEED,
}  # fmt: skip
_SWITCH = {"true": True, "false": False}
_ALL = "*"


@dataclass(frozen=True)
class Axis:
    """A name and its values, each checked. Those of pictures are paths of files."""

    name: str
    values: tuple[Any, ...]

    @property
    def option(self) -> Option:
        return known(self.name)

    @property
    def label(self) -> str:
        return self.option.axis or self.option.label

    @property
    def cost(self) -> float:
        """What another value costs, against other axes': the dearest one is the outermost loop."""
        if self.option.kind in ("image", "mask"):
            return _READS
        return _COSTS.get(self.option.first, self.option.cost)


def known(name: str) -> Option:
    """The option of an axis."""
    return ASKED.get(name) or BY_NAME[name]


def parse(text: str) -> Axis:
    """An axis from NAME=VALUES: values with commas between them, a range of numbers as FIRST:LAST:STEP with both ends
    in it, * for all choices. A value that has a comma in it stands in double quotes.

    Raises:
        ZvlError: no such axis, no values, or one that the option does not take.
    """
    name, sign, values = text.partition("=")
    name = name.strip().replace("-", "_")
    if not sign or (name not in ASKED and name not in BY_NAME):
        close = difflib.get_close_matches(name[:60], [*ASKED, *BY_NAME], 1)
        hint = f"did you mean {close[0]}?" if close else "python -m zvl_ext options lists the names."
        raise ZvlError(f"--axis {shown(text)}: NAME=VALUES is needed, such as weight=0:1:0.2; {hint}")
    option = known(name)
    if option.kind == "images":
        raise ZvlError(f"--axis {name}: a sweep over pictures is --references FOLDER.")
    try:
        found = tuple(dict.fromkeys(_values(option, values)))
    except ZvlError as error:
        raise ZvlError(f"--axis {name}: {untitled(str(error))}") from None
    if not found:
        raise ZvlError(f"--axis {name}: there are no values. Name some: {name}={_example(option)}.")
    return Axis(name, found)


def _values(option: Option, text: str) -> Iterator[Any]:
    if text.strip() == _ALL:
        if option.kind not in ("choice", "switch"):
            raise ZvlError(f"* stands for all choices, and {option.name} has none. Name values.")
        yield from (True, False) if option.kind == "switch" else _choices(option)
        return
    numbers = option.kind in ("number", "integer")
    for part in _parts(text):
        if numbers and ":" in part:
            yield from _range(option, part)
        elif numbers:
            yield option.check(_number(option, part))
        elif option.kind == "switch":
            yield option.check(_SWITCH.get(part.lower(), part))
        else:
            yield _other(option, part)


def _choices(option: Option) -> list[str]:
    """Those that say something: Custom is a name for what no preset is."""
    return [choice for choice in option.choices if option.name != "preset" or choice != "Custom"]


def _parts(text: str) -> list[str]:
    try:
        rows = list(csv.reader([text], skipinitialspace=True, strict=True)) if text.strip() else []
    except csv.Error:
        raise ZvlError('the quotes do not match: a value with commas in it stands in double quotes, "…".') from None
    return [part.strip() for row in rows for part in row]


def _other(option: Option, part: str) -> Any:
    try:
        return option.check(part)
    except ZvlError as error:
        if option.kind == "choice" and any("," in choice for choice in option.choices):
            raise ZvlError(f'{untitled(str(error))[:200]} A name with a comma stands in double quotes, "…".') from None
        raise


def _number(option: Option, part: str) -> Any:
    try:
        return json.loads(part)
    except (ValueError, RecursionError):
        raise option.refuse(part, "numbers, or a range FIRST:LAST:STEP") from None


def _range(option: Option, part: str) -> Iterator[Any]:
    """From FIRST to LAST, both included, in decimal steps."""
    pieces = part.split(":")
    try:
        numbers = [Decimal(piece.strip()) for piece in pieces]
    except DecimalException:
        numbers = []
    if len(numbers) == 2 and option.kind == "integer":
        numbers.append(Decimal(1 if numbers[1] >= numbers[0] else -1))
    if len(numbers) != 3 or not all(number.is_finite() for number in numbers):
        raise option.refuse(part, "a range FIRST:LAST:STEP of numbers")
    first, last, step = numbers
    for end in (first, last):
        option.check(float(end))
    if not step or (last - first) / step < 0:
        raise ZvlError(f"the range {part} is empty: no step of {step} leads from {first} to {last}.")
    try:
        count = int((last - first) / step) + 1
    except DecimalException:
        count = MOST + 1
    if count > MOST:
        raise ZvlError(f"the range {part} has more than {MOST} values. Take a larger step.")
    for number in range(count):
        yield option.check(float(first + number * step))


def _example(option: Option) -> str:
    if option.kind in ("number", "integer"):
        low, high = option.range
        return f"{low:g}:{high:g}:{(high - low) / 5:g}"
    if option.kind == "switch":
        return "true,false"
    return ",".join(option.choices[:2]) or "…"
