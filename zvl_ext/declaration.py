"""What is said of a control when it is declared, and how its values are checked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import ZvlError, shown, untitled
from .hidden_layers import layer_mix
from .regions import rectangle
from .weighting import ALL, block_ranges

# The most pictures of a batch: as many as a person looks at.
_BATCH = 256
# The most characters of a value, by the kind of its option.
_LENGTHS = {
    "text": 10_000, "model": 500, "conditioning": 200, "profile": 500, "projection": 500, "blocks": 200, "region": 100,
    "layers": 200,
}  # fmt: skip

# Kinds of options that name a file of learned numbers: in a picture's parameters it is named with its digest.
LEARNED = ("profile", "projection")
# Kinds of options whose values stand for files.
FILES = ("image", "images", "mask", "model", "conditioning", *LEARNED)


def numbered(name: str, number: int) -> str:
    """The name of a control of the reference with that number, from its name for the first one."""
    return name if number == 1 else f"{name}_{number}"


@dataclass(frozen=True)
class Option:
    """One control.

    Attributes:
        name: The key in Python, in the API and (with dashes) on the command line.
        kind: `switch`, `number`, `integer`, `choice`, `text`, `blocks`, `region`, `layers`, `image`,
            `images`, `mask`, `model`, `conditioning`, `profile` or `projection`.
        default: The value of a fresh panel.
        label: What the panel calls it; unique within the extension.
        help: One or two sentences, for documentation and as the control's tooltip.
        hint: A few words shown beside the control, where its label does not say enough.
        infotext: Key in the picture's parameters, or None when the option is not written there.
        minimum, maximum, step: The range of a number or integer, both ends included.
        choices: The values of a choice.
        advanced: Shown behind "Advanced" in the panel.
        axis: Label of the XYZ-plot axis, or None.
        cost: The axis' cost: the XYZ plot makes the axis with the highest cost its outer loop.
        unit: Which reference it is about, from 1; 0 where it is about all of them.
        added: In which round of additions it came, from 0: all of a round, further references' included, stand before
            those of the next one in the positional order.
    """

    name: str
    kind: str
    default: Any
    label: str
    help: str
    hint: str = ""
    infotext: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    axis: str | None = None
    cost: float = 0.0
    unit: int = 0
    added: int = 0

    def of_unit(self, number: int) -> Option:
        """The same control of another reference: what the first one's is called, with a number behind it."""

        def with_number(text: str | None) -> str | None:
            return text and f"{text} {number}"

        return dataclasses.replace(
            self,
            name=numbered(self.name, number),
            label=f"{self.label} {number}",
            infotext=with_number(self.infotext),
            axis=with_number(self.axis),
            unit=number,
        )

    @property
    def first(self) -> str:
        """The name of the same control of the first reference."""
        return self.name.removesuffix(f"_{self.unit}") if self.unit > 1 else self.name

    @property
    def range(self) -> tuple[float, float]:
        """Minimum and maximum of a number or integer."""
        if self.minimum is None or self.maximum is None:
            raise ValueError(f"{self.name} is declared without a range")
        return self.minimum, self.maximum

    @property
    def length(self) -> int | None:
        """The most characters of a text; None for what is no text."""
        return _LENGTHS.get(self.kind)

    def check(self, value: Any) -> Any:
        """Return `value` in the option's own type, or raise ZvlError. Nothing is guessed: "0.3" is not a number."""
        return _CHECKS[self.kind](self, value)

    def refuse(self, value: Any, wanted: str) -> ZvlError:
        return ZvlError(f"Z-Image VL: {self.name} must be {wanted}, not {shown(value)}.")

    def describe(self) -> dict[str, Any]:
        """The declaration as plain data, for `options --json` and for documentation."""
        return {
            "name": self.name,
            "kind": self.kind,
            "default": self.default,
            "range": None if self.minimum is None else [self.minimum, self.maximum],
            "step": self.step,
            "length": self.length,
            "choices": list(self.choices) or None,
            "label": self.label,
            "help": self.help,
            "hint": self.hint or None,
            "infotext": self.infotext,
            "axis": self.axis,
            "advanced": self.advanced,
        }


def _switch(option: Option, value: Any) -> bool:
    if not isinstance(value, bool):
        raise option.refuse(value, "true or false")
    return value


def _number(option: Option, value: Any) -> float:
    low, high = option.range
    wanted = f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise option.refuse(value, wanted)
    return float(value)


def _integer(option: Option, value: Any) -> int:
    low, high = option.range
    # Sliders and JSON send 3.0 for 3.
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole or not low <= value <= high:
        raise option.refuse(value, f"a whole number from {low:g} to {high:g}")
    return int(value)


def _choice(option: Option, value: Any) -> str:
    if not isinstance(value, str) or value not in option.choices:
        raise option.refuse(value, "one of " + ", ".join(option.choices))
    return value


def _text(option: Option, value: Any) -> str:
    if value is None:  # an empty text box or dropdown
        return ""
    if not isinstance(value, str):
        raise option.refuse(value, "text")
    if len(value) > (option.length or 0):
        raise option.refuse(value, f"a text of at most {option.length} characters")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates: JavaScript cuts texts between them
        raise option.refuse(value, "valid Unicode text") from None
    return value


def _blocks(option: Option, value: Any) -> str:
    text = " ".join(_text(option, value).split()) or ALL
    with _naming(option):
        block_ranges(text)
    return text


def _region(option: Option, value: Any) -> str:
    text = " ".join(_text(option, value).split()).lower() or ALL
    with _naming(option):
        rectangle(text)
    return text


def _layers(option: Option, value: Any) -> str:
    text = " ".join(_text(option, value).split())
    if text:
        try:
            layer_mix(text)
        except ZvlError as error:
            raise ZvlError(f"Z-Image VL: {option.name}: {error}") from None
    return text


@contextlib.contextmanager
def _naming(option: Option) -> Iterator[None]:
    """What is wrong with a text says of which reference, where it is not the first."""
    try:
        yield
    except ZvlError as error:
        raise ZvlError(f"Z-Image VL: {option.name}: {untitled(str(error))}") if option.unit > 1 else error from None


def _image(option: Option, value: Any) -> Any:
    return None if isinstance(value, str) and not value else value  # opened and checked by reference.open_reference


def _images(option: Option, value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise option.refuse(value, "a list of pictures")
    if len(value) > _BATCH:
        raise ZvlError(f"Z-Image VL: {option.name} has {len(value)} pictures; {_BATCH} are the most. Make it in parts.")
    return tuple(value) or None


_CHECKS = {
    "switch": _switch,
    "number": _number,
    "integer": _integer,
    "choice": _choice,
    "text": _text,
    "blocks": _blocks,
    "region": _region,
    "layers": _layers,
    "mask": _image,
    "model": _text,
    "conditioning": _text,
    "profile": _text,
    "projection": _text,
    "image": _image,
    "images": _images,
}


def declared(kind: str, default: Any, label: str, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"kind": kind, "label": label, "help": help, **more})
