"""From a conditioning to a picture in diffusers' Z-Image: its own classes, the miniature's size, random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

from zvl_ext.conditioner import mixed
from zvl_ext.conditioning import Conditioning
from zvl_ext.hosts.standalone_attention import weighted
from zvl_ext.lab.miniature import family
from zvl_ext.mixing.select import Rows
from zvl_ext.options import Settings

SIZE, ODD_SIZE = (128, 128), (112, 96)  # pixels; 64 rows of the picture, and 42 that are filled up to 64
STEPS, HEAD, TAIL = 4, 3, 2
GRID = (2, 3)


def make_pipeline() -> ZImagePipeline:
    torch.manual_seed(0)
    transformer = tiny.randomized(family.transformer())
    made = ZImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)
    made.set_progress_bar_config(disable=True)
    return made


def pictures_of(pipeline: ZImagePipeline) -> Callable[..., torch.Tensor]:
    """Latents of conditionings, or of plain rows without any hook."""

    @torch.inference_mode()
    def make(
        *wanted: Conditioning | torch.Tensor,
        seed: int = 1,
        guidance: float = 0.0,
        size: tuple[int, int] = SIZE,
        steps: int = STEPS,
        **more: Any,
    ) -> torch.Tensor:
        rows = [each.rows if isinstance(each, Conditioning) else each for each in wanted]

        def run() -> torch.Tensor:
            return pipeline(
                prompt_embeds=rows,
                negative_prompt_embeds=[prompt(9, 50)] * len(rows) if guidance else None,
                generator=[torch.Generator().manual_seed(seed + i) for i in range(len(rows))],
                width=size[0],
                height=size[1],
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="latent",
                **more,
            ).images

        if not all(isinstance(each, Conditioning) for each in wanted):
            return run()
        with weighted(pipeline.transformer, list(wanted), steps):
            return run()

    return make


def prompt(rows: int = 13, seed: int = 0) -> torch.Tensor:
    """The text encoder's rows of a prompt."""
    return torch.tensor(np.random.default_rng(seed).normal(size=(rows, family.HIDDEN)), dtype=torch.float32)


def conditioning(rows: int = 13, seed: int = 0, **settings: Any) -> Conditioning:
    """What engine splice makes of a prompt: the prompt's rows, which have read the picture, and the picture's."""
    count = rows + 2 + GRID[0] * GRID[1]
    image, text = torch.zeros(2, count, dtype=torch.bool)
    image[HEAD + 1 : HEAD + 7] = True
    text[:HEAD] = text[HEAD + 8 :] = True
    states = prompt(count, 1000 + seed)
    states[text] = prompt(rows, seed) + 0.3 * states[text]
    values = {
        "engine": "splice",
        "alpha": 1.0,
        "token_mode": "all",
        "scale_to_text": False,
        "length_match": "insert",
        "block_place": "front",
        "weight": 1.0,
        "merge": 1,
        **settings,
    }
    return mixed(Settings.from_mapping(values), prompt(rows, seed), Rows(states, text, image, HEAD, TAIL, GRID), None)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
