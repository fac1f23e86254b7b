"""The way back from what is shipped to a training's folder: to go on with one stage without those before it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..miniature import adapter
from ..miniature.classifier import Classifier
from .language import Probes, answered_captions, special_ids, tokenizer_of

RESTORED = "from what was shipped, in bfloat16"  # said in the stage's log
# Of the probes that are learned again.
BATCHES, STEPS, RATE = 16, 200, 3e-2


def restore(published: str, work: str) -> None:
    """Write a folder of weights as the state of the finished stages that it was published from.

    The vision tower of the last stage stands for that of the stages before. What is rounded to bfloat16 stays so; the
    text encoder's probes, which are not shipped, are learned again while the text encoder itself is frozen.

    Args:
        published: A folder as `publish` writes it.
        work: The training's state; stages that it has already stay as they are.
    """
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

    z_image, qwen3_vl = os.path.join(published, "z-image"), os.path.join(published, "qwen3-vl")
    if not os.path.isfile(os.path.join(work, "tokenizer", "tokenizer.json")):
        os.makedirs(os.path.join(work, "tokenizer"), exist_ok=True)
        shutil.copy(os.path.join(qwen3_vl, "tokenizer.json"), os.path.join(work, "tokenizer", "tokenizer.json"))
    with open(os.path.join(published, "training.json"), encoding="utf-8") as file:
        curves = json.load(file)

    def instrument(model: nn.Module, name: str) -> nn.Module:
        model.load_state_dict(load_file(os.path.join(published, f"{name}.safetensors")))
        return model

    def pretrained(kind: Any, folder: str) -> nn.Module:
        model: nn.Module = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return model

    def image_model() -> nn.Module:
        return pretrained(ZImageTransformer2DModel, os.path.join(z_image, "transformer"))

    def probes() -> nn.Module:
        return _probes_for(pretrained(Qwen3ForCausalLM, os.path.join(z_image, "text_encoder")).float(), work)

    def vision_language() -> nn.Module:
        return pretrained(Qwen3VLForConditionalGeneration, qwen3_vl)

    stages: dict[str, Callable[[], nn.Module]] = {
        "vae": lambda: pretrained(AutoencoderKL, os.path.join(z_image, "vae")),
        "text_encoder": probes,
        "classifier": lambda: instrument(Classifier(), "classifier"),
        "vision": vision_language,
        "grounding": vision_language,
        "alignment": vision_language,
        "qwen3_vl": vision_language,
        "transformer": image_model,
        "adapter": lambda: instrument(adapter.for_model(image_model()), "adapter"),
    }
    special_ids(tokenizer_of(work))  # says what is missing before anything is written
    for stage, make in stages.items():
        path = os.path.join(work, f"{stage}.safetensors")
        if stage in curves and not os.path.isfile(path):
            step = curves[stage][-1]["step"]
            lines = [*curves[stage], {"step": step, "restored": RESTORED}]
            with open(os.path.join(work, f"{stage}.jsonl"), "w", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
            _save(make().float(), step, path)


def _save(model: nn.Module, step: int, path: str) -> None:
    tensors = {}
    for key, parameter in model.named_parameters():
        value = parameter.detach().contiguous()
        tensors |= {f"model.{key}": value, f"average.{key}": value.clone()}
    save_file({**tensors, "step": torch.tensor(step)}, path)


def _probes_for(encoder: nn.Module, work: str) -> Probes:
    """Probes of a finished text encoder."""
    tokenizer = tokenizer_of(work)
    probes = Probes()
    probes.encoder = encoder.eval().requires_grad_(False)
    learned = [parameter for parameter in probes.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=RATE, weight_decay=0.0)
    rng = np.random.default_rng(11)
    batches = []
    for _ in range(BATCHES):
        batch = answered_captions(tokenizer, rng, 48)
        with torch.no_grad():
            states = probes.encoder(input_ids=batch.ids, output_hidden_states=True).hidden_states[-2]
        batches.append((states, batch.ids, batch.words, batch.last, batch.mentioned))
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / STEPS))
        loss = probes(*batches[step % BATCHES])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print({"probes": round(float(loss.detach()), 4)}, flush=True)
    return probes.requires_grad_(True)
