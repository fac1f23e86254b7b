"""Trains the miniature family: `python -m zvl_ext.lab.training STAGE --work FOLDER`. The stages, in order, are STAGES.

Every stage can be stopped and started again with the same command: it saves its weights every minute. A learning rate
is constant after a short warm-up and falls linearly over the last quarter of the steps.
"""

from __future__ import annotations

import argparse
import os

import torch

from ..miniature import family
from . import language, pictures, vision_language
from .publish import publish
from .restore import restore

STAGES = {
    "vae": pictures.train_vae,
    "text_encoder": language.train_text_encoder,
    "classifier": pictures.train_classifier,
    "vision": vision_language.train_vision,
    "grounding": vision_language.train_grounding,
    "alignment": vision_language.train_alignment,
    "qwen3_vl": vision_language.train_qwen3_vl,
    "transformer": pictures.train_transformer,
    "adapter": pictures.train_adapter,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zvl_ext.lab.training", description=__doc__.splitlines()[0])
    parser.add_argument(
        "stage",
        choices=[*STAGES, "publish", "restore"],
        help="the stages in their order; publish writes what is shipped; restore makes the state of the stages of it, "
        "to go on from there",
    )
    parser.add_argument("--work", required=True, help="a folder for the training's state")
    parser.add_argument("--minutes", type=float, default=60, help="stop after so many; the same command goes on later")
    parser.add_argument("--out", default=family.WEIGHTS, help="the folder that publish writes and restore reads")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.stage == "publish":
        publish(args.work, args.out, STAGES)
    elif args.stage == "restore":
        restore(args.out, args.work)
    else:
        STAGES[args.stage](args.work, args.minutes)


if __name__ == "__main__":
    main()
