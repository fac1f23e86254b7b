"""What the commands share: options as arguments, and checks before the work begins."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from ..declaration import Option
from ..errors import ZvlError
from ..options import BY_NAME


def value(option: Option) -> Any:
    """An argparse type that applies the option's own check."""

    def convert(text: str) -> Any:
        try:
            return option.check(json.loads(text) if option.kind in ("number", "integer") else text)
        except (ValueError, ZvlError) as error:
            message = str(error) if isinstance(error, ZvlError) else str(option.refuse(text, f"a {option.kind}"))
            raise argparse.ArgumentTypeError(message.removeprefix("Z-Image VL: ")) from None

    return convert


def whole(low: int, high: int) -> Any:
    """An argparse type for whole numbers in a range."""

    def convert(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"a whole number from {low} to {high} is needed, not {text!r}")
        return int(text)

    return convert


def add_option(parser: argparse.ArgumentParser, name: str, *aliases: str, option: Option | None = None) -> None:
    option = option or BY_NAME[name]
    parser.add_argument(
        "--" + name.replace("_", "-"),
        *aliases,
        dest=name,
        type=value(option),
        default=option.default,
        metavar="|".join(option.choices) or option.kind.upper(),
        help=f"{option.help} Default: {option.default}.".replace("%", "%%"),
    )


def device(name: str) -> str:
    import torch

    try:
        if name != "auto":
            torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ZvlError(f"--device {name}: torch knows no such device.") from error
    return name


def check_out(path: str, flag: str = "--out") -> None:
    """Refuse before the work, not after it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or os.path.isdir(path):
        raise ZvlError(
            f"{flag} {path}: {'this is a folder' if os.path.isdir(path) else 'there is no folder ' + folder}."
        )
