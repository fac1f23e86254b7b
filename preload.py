"""Command line flags of Z-Image VL, read by the web UI before anything else."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--qwen3-vl-dir",
        dest="qwen3_vl_dirs",
        action="append",
        metavar="FOLDER",
        help="another folder with Qwen3-VL weights (or a model's own folder, or a file), besides models/qwen3_vl; may "
        "be given more than once",
    )
    parser.add_argument(
        "--zvl-reference-dir",
        metavar="FOLDER",
        help="folder of reference images for the X/Y/Z plot; default: models/qwen3_vl/references",
    )
