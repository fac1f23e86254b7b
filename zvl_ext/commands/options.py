"""`options`: every control."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..declaration import Option
from ..options import OPTIONS
from .common import add_command


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "options",
        "every control with its range, default and names",
        "options",
        "options --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", action="store_true", help="as the table in .github/docs/options.md")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps([option.describe() for option in OPTIONS], indent=2, ensure_ascii=False))
        return
    if args.markdown:
        print(options_table())
        return
    for option in OPTIONS:
        print(f"{option.name:18} {_values(option)}; default {json.dumps(option.default)}")
        print(f"{'':18} {option.help}")


def options_table() -> str:
    """The options in the order of the positional API, as a table in Markdown; those of further references, which follow
    in the order of the first one's, are not named again."""
    rows = []
    for option in OPTIONS:
        if option.unit < 2:
            default = "" if option.default in (None, "") else f"<br>default `{json.dumps(option.default)}`"
            rows.append(f"| `{option.name}`<br>{option.label} | {_values(option)}{default} | {option.help} |")
    return "\n".join(["| name, and in the panel | values | what it does |", "|---|---|---|", *rows])


def _values(option: Option) -> str:
    """What an option takes, in words."""
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.minimum is not None:
        return f"{option.minimum:g} to {option.maximum:g}"
    words = {
        "switch": "true, false",
        "image": "an image as base64 text",
        "images": "a list of images as base64 text",
        "mask": "an image as base64 text",
        "region": "`all`, `left`, `right`, `top`, `bottom`, `centre`, `inpaint mask`, or left, top, right, bottom as "
        "shares",
        "model": "a name from the panel's list; empty: the first",
        "conditioning": "a name from the panel's list; empty: none",
        "profile": "a name from the panel's list; empty: none",
    }
    return words.get(option.kind, option.kind)
