"""`cache`: what is kept on disk."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("cache", help="the hidden states kept on disk: where, how many and how large")
    parser.add_argument("--clear", action="store_true", help="remove them")
    parser.add_argument("--folder", help="another folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from ..store import Disk, data_folder

    disk = Disk(args.folder or data_folder(), limit=0)
    removed = disk.clear() if args.clear else 0
    sizes = [file.size for file in disk.files()]
    if args.json:
        print(
            json.dumps(
                {"folder": disk.folder, "entries": len(sizes), "bytes": sum(sizes), "removed": removed}, indent=2
            )
        )
        return
    print(
        f"{disk.folder}: {len(sizes)} entries, {sum(sizes)} bytes{f'; {removed} files removed' if args.clear else ''}"
    )
