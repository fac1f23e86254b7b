"""The contract: what the extension promises of one generation, between the web UI's `process` and its sampler.

Its tests, in tests/hosts/contract, run in the stand-in of the web UI and, with ZVL_HOST, in a real one. Here is what
they ask for, and how they look at what comes out.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import numpy as np
import torch
from host_fixtures import WebUI
from published import research

from zvl_ext.options import OPTIONS
from zvl_ext.webui.kept import KEEPER

# --- prompts and settings

CAT, DOG = "a photo of a cat", "a photo of a dog"
# No statistics are needed, so the text encoder reads the prompts and nothing else.
BARE = {"scale_to_text": False}
SPLICE = {"engine": "splice", "alpha": 1.0, "hidden_layer": -2, "token_mode": "all", "length_match": "insert"}
CHANGES = {  # options of engine blend, each with a value that is not the published one
    "alpha": 0.31,
    "hidden_layer": -7,
    "layer_mix": "-7:0.7, -2:0.3",
    "token_mode": "image",
    "scale_to_text": False,
    "normalization": "per_dim",
    "outlier_repair": "zero",
    "outlier_threshold": 2.0,
    "length_match": "truncate",
    "blend_mode": "slerp",
    "reference_tokens": 4,
    "vl_prompt": "",
    "system_prompt": "Look.",
}


def positions(**values: Any) -> list[Any]:
    """The arguments as the panel sends them: the values of all controls, in order; the published ones unless named."""
    settings = dataclasses.replace(research(enabled=True), **values)
    return [getattr(settings, option.name) for option in OPTIONS]


def restarted(web: WebUI) -> WebUI:
    """As after a restart of the web UI with the same checkpoint."""
    for slot in (web.p().cached_c, web.p().cached_uc):
        slot[:] = [None, None, None]
    KEEPER.store.clear()
    KEEPER.recorded.clear()
    KEEPER.residence.drop()
    web.events.clear()
    return web


# --- what came out


def rows(c: Any) -> list[torch.Tensor]:
    """All tensors of a conditioning, in order: of `p.c` (parts of prompts with schedules) or `p.uc` (schedules)."""
    lines = [part.schedules for line in c.batch for part in line] if hasattr(c, "batch") else c
    return [entry.cond for schedule in lines for entry in schedule]


def conds(p: Any) -> list[torch.Tensor]:
    """The tensors that the first pass of a generation is conditioned on."""
    return rows(p.c)


def same(a: Any, b: Any) -> bool:
    """Whether two conditionings are equal, bit for bit."""
    a, b = rows(a), rows(b)
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def close(got: torch.Tensor, want: np.ndarray, tolerance: float = 2e-4) -> bool:
    """Equal up to float32 rounding, relative to the largest value."""
    got = got.double().numpy()
    return got.shape == want.shape and np.abs(got - want).max() <= tolerance * np.abs(want).max()


def put_on_a_lora(web: WebUI) -> None:
    """What the web UI leaves behind when it has put a LoRA into the text encoder."""
    patcher = web.engine.forge_objects.clip.patcher
    if hasattr(patcher, "patches_uuid"):
        patcher.patches_uuid = uuid.uuid4()
    else:
        patcher.lora_patches[("some.safetensors", 1.5, 1.0, False)] = {}
    web.engine.text_encoder.model.layers[0].mlp.down_proj.weight.mul_(1.5)


# --- what was done

BEFORE = 3 + 6 + 2  # tokens up to the end of the vision block: the template's head, those of `picture`, the markers


def behind(web: WebUI) -> list[int]:
    """How many tokens stand behind the vision block, for each text that the text encoder has read."""
    return [len(line) - 3 for ids in web.events.of("text") for line in ids]


def hooks(p: Any) -> dict[str, Any]:
    """The web UI's methods that stand on this generation in place of its class's."""
    return {name: p.__dict__[name] for name in ("cached_params", "get_conds_with_caching") if name in p.__dict__}
