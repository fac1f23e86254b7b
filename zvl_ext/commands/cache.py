"""`cache`: what is kept on disk."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from ..errors import ZvlError
from .common import add_command


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "cache",
        "the hidden states kept on disk: where, how many and how large",
        "cache",
        "cache --clear",
    )
    parser.add_argument("--clear", action="store_true", help="remove them")
    parser.add_argument("--folder", help="another folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..store import Disk, data_folder

    if args.folder is not None and not os.path.isdir(args.folder):
        raise ZvlError(f"--folder {args.folder}: there is no such folder.")
    disk = Disk(args.folder or data_folder(), limit=0)
    removed = disk.clear() if args.clear else 0
    entries = len(disk.files())
    if args.json:
        print(json.dumps({"folder": disk.folder, "entries": entries, "bytes": disk.size, "removed": removed}, indent=2))
        return
    print(f"{disk.folder}: {entries} entries, {disk.size} bytes{f'; {removed} files removed' if args.clear else ''}")
