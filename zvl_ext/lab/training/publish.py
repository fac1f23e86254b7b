"""What is shipped: the finished stages as the folders that everything else reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from safetensors.torch import save_file

from ..miniature import adapter, family
from ..miniature.classifier import Classifier
from .language import special_ids, tokenizer_of
from .loop import averaged
from .pictures import latents_of


def publish(work: str, out: str, stages: Iterable[str] = ()) -> None:
    """Write a folder of weights, in bfloat16.

    Args:
        work: The training's state.
        out: The folder to write.
        stages: Whose curves go beside the weights, into training.json.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
    from transformers import Qwen2TokenizerFast

    tokenizer = tokenizer_of(work)
    z_image, qwen3_vl = os.path.join(out, "z-image"), os.path.join(out, "qwen3-vl")
    family.save_tokenizer(tokenizer, qwen3_vl)
    vae = averaged("vae", family.vae(), work)
    _, _, mean, scale = latents_of(work)
    vae.register_to_config(shift_factor=mean, scaling_factor=scale)
    text_encoder = averaged("text_encoder", family.text_encoder(), work, "encoder.")
    text_encoder.tie_weights()
    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae.bfloat16(),
        text_encoder.bfloat16(),
        Qwen2TokenizerFast.from_pretrained(qwen3_vl),
        averaged("transformer", family.transformer(), work).bfloat16(),
    )
    pipeline.save_pretrained(z_image)
    family.save_tokenizer(tokenizer, os.path.join(z_image, "tokenizer"))
    model = averaged("qwen3_vl", family.qwen3_vl(special_ids(tokenizer)), work)
    model.tie_weights()
    model.bfloat16().save_pretrained(qwen3_vl)
    for folder in (os.path.join(z_image, "text_encoder"), qwen3_vl):
        family.write_rope_for_transformers_4(os.path.join(folder, "config.json"))
    instruments = {"classifier": Classifier(), "adapter": adapter.for_model(pipeline.transformer)}
    for stage, model in instruments.items():
        # A family without an adapter can be tried, too.
        if stage == "adapter" and not os.path.isfile(os.path.join(work, adapter.FILE)):
            continue
        state = averaged(stage, model, work).state_dict()
        save_file({key: value.bfloat16() for key, value in state.items()}, os.path.join(out, f"{stage}.safetensors"))
    curves = {}
    for stage in stages:
        if os.path.isfile(log := os.path.join(work, f"{stage}.jsonl")):
            with open(log, encoding="utf-8") as file:
                lines = [json.loads(line) for line in file]
            some = {*range(0, len(lines), max(1, len(lines) // 30)), len(lines) - 1}
            curves[stage] = [line for i, line in enumerate(lines) if i in some or "restored" in line]
    with open(os.path.join(out, "training.json"), "w", encoding="utf-8") as file:
        json.dump(curves, file, indent=1)
