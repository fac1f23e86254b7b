"""The command line: `python -m zvl_ext COMMAND`, or `zvl COMMAND` where the package is installed."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from . import __version__
from .commands import (
    benchmark,
    blend,
    cache,
    demo,
    encode,
    evaluate,
    extract,
    generate,
    options,
    statistics,
    vision_tower,
)
from .errors import ZvlError

COMMANDS = (generate, extract, encode, blend, statistics, demo, evaluate, benchmark, cache, vision_tower, options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ZvlError(f"{message} (see python -m zvl_ext --help)")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m zvl_ext", description="Z-Image VL on the command line.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    try:
        args = build_parser().parse_args(arguments)
        args.run(args)
    except ZvlError as error:
        print("zvl_ext: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except ImportError as error:
        print(
            f"zvl_ext: {error}. Install it with: python -m pip install torch transformers safetensors pillow numpy",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
