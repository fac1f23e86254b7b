"""What the commands share: options as arguments, and checks before the work begins."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..declaration import FILES, Option
from ..errors import ZvlError
from ..options import BY_NAME, Settings
from ..outside import no_file


def add_command(commands: Any, name: str, does: str, *examples: str, more: str = "") -> argparse.ArgumentParser:
    """Declare a command.

    Args:
        does: What it does, in half a sentence.
        examples: What a person may type behind `python -m zvl_ext`, for its help.
        more: What else its help says, below them.
    """
    typed = "\n".join(f"  python -m zvl_ext {example}" for example in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=does,
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=f"for example:\n{typed}\n{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_weights(parser: Any) -> None:
    """The arguments that name models in place of the miniature's."""
    parser.add_argument("--z-image", metavar="FOLDER", help="a diffusers folder of Z-Image; default: the miniature")
    parser.add_argument("--qwen3-vl", metavar="PATH", help="a Hugging Face folder or one .safetensors file of Qwen3-VL")
    parser.add_argument("--weights", metavar="FOLDER", help="other weights of the miniature family")


def add_dtype(parser: Any, *more: str) -> None:
    """The argument that says what kind of numbers a model is calculated in."""
    kinds = ("auto", "float32", "bfloat16", *more)
    parser.add_argument(
        "--dtype", default="auto", choices=kinds, help="numbers to calculate in; auto: what suits device and weights"
    )


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


# What `extract` and `blend` have where nothing is said: the published findings' recommendation, which they are for.
PUBLISHED = Settings().changed({"preset": "Research default"})


def add_option(parser: argparse.ArgumentParser, name: str, *aliases: str, option: Option | None = None) -> None:
    option = option or BY_NAME[name]
    parser.add_argument(
        "--" + name.replace("_", "-"),
        *aliases,
        dest=name,
        type=value(option),
        default=getattr(PUBLISHED, name),
        metavar="|".join(option.choices) or option.kind.upper(),
        help=f"{option.help} Default: {getattr(PUBLISHED, name) or 'none'}.".replace("%", "%%"),
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
    if not os.path.isdir(folder):
        raise ZvlError(f"{flag} {path}: there is no folder {folder}.")
    if os.path.exists(path) and (kind := no_file(path)):  # a pipe or a device would be replaced by the file
        raise ZvlError(f"{flag} {path}: this is {kind}.")


def given(pairs: list[str]) -> dict[str, Any]:
    """Options from `NAME=VALUE` texts, as `--set` takes them, each in its own type."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or name not in BY_NAME or BY_NAME[name].kind in ("image", "images"):
            close = difflib.get_close_matches(name, BY_NAME, 1)
            hint = f"did you mean {close[0]}?" if close else "python -m zvl_ext options lists them."
            raise ZvlError(f"--set {pair}: NAME=VALUE is needed, with an option's name; {hint}")
        option = BY_NAME[name]
        if option.kind == "conditioning":
            raise ZvlError(f"--set {pair}: a conditioning file is named with --conditioning FILE.")
        try:
            values[name] = option.check(
                json.loads(text)
                if option.kind in ("number", "integer")
                else _switch(text)
                if option.kind == "switch"
                else text
            )
        except ValueError as error:
            said = str(error) if isinstance(error, ZvlError) else str(option.refuse(text, f"a {option.kind}"))
            raise ZvlError(f"--set {pair}: " + said.removeprefix("Z-Image VL: ")) from None
    return values


# Arguments that name files and machines of a person's own, or decide nothing about what comes out.
_OWN = (
    "command", "what", "pictures", "texts", "out", "state", "z_image", "qwen3_vl", "device", "at_once", "checkpointing",
)  # fmt: skip


def repeatable(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """What was asked for, as it may be typed again: without the names of files, which a file that is passed on is not
    to tell.

    Args:
        parser: The command's.
    """
    typed = parser.prog.split()[-2:]
    for name, given in vars(args).items():
        if name in _OWN or callable(given) or given is None or given == parser.get_default(name):
            continue
        for each in given if isinstance(given, list) else [given]:
            typed.append("--" + name.replace("_", "-"))
            typed += [] if each is True else [_nameless(str(each))]
    return " ".join(["zvl", *map(shlex.quote, typed)])


def _nameless(text: str) -> str:
    """`NAME=VALUE`, a file's value without its folders."""
    name, sign, value = text.partition("=")
    filed = name.strip() in BY_NAME and BY_NAME[name.strip()].kind in FILES
    return f"{name}{sign}{os.path.basename(value)}" if filed else text


def _switch(text: str) -> Any:
    return {"true": True, "false": False}.get(text.strip().lower(), text)


def say(line: str) -> None:
    """Tell a person what is going on, on standard error."""
    print(line, file=sys.stderr, flush=True)


def bar(things: Sequence[Any], name: str) -> Iterable[Any]:
    """Go through things and show how far it is, on a terminal alone."""
    from tqdm import tqdm

    shown: Iterable[Any] = tqdm(things, desc=name, disable=None, leave=False)
    return shown
