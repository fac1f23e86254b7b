"""The miniature family without training: the same classes, folders and files, with weights as they are initialized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zvl_ext import profiles
from zvl_ext.lab.miniature import family, world
from zvl_ext.lab.training import publish


def save_untrained(work: Path, out: Path) -> Path:
    """What training would publish, had it never begun.

    Args:
        work: An empty folder for the training's state.
        out: The folder of weights to write.
    """
    rng = np.random.default_rng(0)
    captions = [world.caption(world.random_scene(rng), rng) for _ in range(300)]
    family.save_tokenizer(family.train_tokenizer(captions), str(work / "tokenizer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "averaged", lambda name, model, *rest: model.eval().requires_grad_(False))
        patch.setattr(publish, "latents_of", lambda work: (None, None, 0.0, 1.0))
        torch.manual_seed(0)
        publish.publish(str(work), str(out))
    return out


def write_profile(folder: Path, name: str, log: float = -2.0, blocks: int = 6, **told: object) -> str:
    """A profile of the miniature's shape, or of more blocks; gives its path.

    Args:
        log: The first block's first head's log-weight; the last one's last head has 0.5, the others lie between.
    """
    main = torch.linspace(log, 0.5, blocks * 4).reshape(blocks, 4)
    path = str(folder / f"{name}.safetensors")
    profiles.write_profile(path, main, torch.zeros(1, 4), told)
    return path
