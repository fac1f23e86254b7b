"""The command line: `python -m zvl_ext COMMAND`, or `zvl COMMAND` where the package is installed."""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import sys
from typing import Any, NoReturn

from . import __version__
from .commands import (
    benchmark,
    blend,
    cache,
    caption,
    demo,
    encode,
    evaluate,
    extract,
    fit,
    generate,
    options,
    statistics,
    sweep,
    vision_tower,
)
from .errors import ZvlError, line_of

COMMANDS = (
    generate,
    caption,
    extract,
    encode,
    blend,
    statistics,
    demo,
    evaluate,
    sweep,
    benchmark,
    fit,
    cache,
    vision_tower,
    options,
)


MINIATURE = "The miniature is a small demo model that comes with Z-Image VL and knows drawings of single objects."


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, which ends with the command's own help."""

    def format_help(self) -> str:
        """A help that speaks of the miniature says what that is."""
        said = super().format_help()
        return f"{said}\n{MINIATURE}\n" if "miniature" in said else said

    def error(self, message: str) -> NoReturn:
        raise ZvlError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """What is not known is told by the command that was to know it, not by the whole program."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m zvl_ext", description="Z-Image VL on the command line.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; whatever goes wrong is one line on standard error.

    Args:
        arguments: Of a program that calls this, which gets Ctrl-C as KeyboardInterrupt; default: the process' own.

    Returns:
        The exit code: 0; 1 where a part of the work could not be done; 2 where something is refused; 130 after a
        person's Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)
    try:
        args = build_parser().parse_args(arguments)
        code: int = args.run(args) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ImportError as error:
        return _refuse(f"{error}. Install it with: python -m pip install torch transformers safetensors pillow numpy")
    except KeyboardInterrupt:
        if arguments is not None:
            raise
        return 130
    except SystemExit:
        raise
    except BaseException as error:  # a panic of tokenizers is no Exception
        if os.environ.get("ZVL_TRACEBACK") and not isinstance(error, ZvlError):
            raise
        where = "Set ZVL_TRACEBACK=1 to see where."
        return _refuse(line_of(error).replace("The console says where.", where))
    return code


def _refuse(line: str) -> int:
    line = " ".join(line.split())
    if len(line) > _LONGEST:  # what is wrong stands in front, what to do at the end
        line = f"{line[: _LONGEST * 2 // 3]} ... {line[-_LONGEST // 3 + 5 :]}"
    print(f"zvl_ext: {line}", file=sys.stderr)
    return 2


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What an output's encoding lacks: × as x, anything else as JSON writes it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(_WRITTEN)
    return json.dumps(missing)[1:-1], error.end


_LONGEST = 280  # characters of a refusal
_PLAIN = "zvl_plain"
_WRITTEN = str.maketrans({"×": "x", "–": "-", "…": "...", "·": "*"})
codecs.register_error(_PLAIN, _plain)


if __name__ == "__main__":
    sys.exit(main())
