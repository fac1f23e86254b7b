"""One call of the denoiser: conditions to batches, batches through the image model, guidance between what comes out."""

import math

import torch

from backend.sampling.condition import compile_conditions, compile_weighted_conditions

COND, UNCOND = 0, 1


def alike(first, second):
    return first.keys() == second.keys() and all(first[name].can_concat(second[name]) for name in first)


def calc_cond_uncond_batch(model, cond, uncond, x, timestep, model_options):
    """Everything that fits into one batch with the first goes through the model together, the last first."""
    sums, totals = [torch.zeros_like(x), torch.zeros_like(x)], [torch.full_like(x, 1e-37) for _ in range(2)]
    waiting = [(entry, kind) for kind, entries in ((COND, cond), (UNCOND, uncond or [])) for entry in entries]
    waiting = [
        ({k: c.process_cond(batch_size=len(x), device=x.device) for k, c in e["model_conds"].items()}, kind, e)
        for e, kind in waiting
    ]
    while waiting:
        batch = [one for one in waiting if alike(one[0], waiting[0][0])][::-1]
        waiting = [one for one in waiting if not any(one is other for other in batch)]
        kinds = [kind for _, kind, _ in batch]
        conds = [made for made, _, _ in batch]
        c = {name: conds[0][name].concat([other[name] for other in conds[1:]]) for name in conds[0]}
        options = {**model_options.get("transformer_options", {}), "cond_or_uncond": kinds, "sigmas": timestep}
        c["transformer_options"] = options
        inputs, times = torch.cat([x] * len(batch)), torch.cat([timestep] * len(batch))
        if "model_function_wrapper" in model_options:
            call = {"input": inputs, "timestep": times, "c": c, "cond_or_uncond": kinds}
            output = model_options["model_function_wrapper"](model.apply_model, call)
        else:
            output = model.apply_model(inputs, times, **c)
        for (_, kind, entry), part in zip(batch, output.chunk(len(batch))):
            strength = entry.get("strength", 1.0)
            sums[kind] += part * strength
            totals[kind] += strength
    return sums[COND] / totals[COND], sums[UNCOND] / totals[UNCOND]


def sampling_function(self, denoiser_params, cond_scale, cond_composition, extra_model_options=None):
    """What the model makes of a noisy picture, and both halves of it."""
    unet = self.inner_model.inner_model.forge_objects.unet
    model, x, timestep, seed = unet.model, denoiser_params.x, denoiser_params.sigma, self.p.seeds[0]
    uncond = compile_conditions(denoiser_params.text_uncond)
    cond = compile_weighted_conditions(denoiser_params.text_cond, cond_composition)
    options = {**unet.model_options, **(extra_model_options or {})}
    for modifier in options.get("conditioning_modifiers", []):
        model, x, timestep, uncond, cond, cond_scale, options, seed = modifier(
            model, x, timestep, uncond, cond, cond_scale, options, seed
        )
    strength = sum(entry.get("strength", 1.0) for entry in cond)
    if math.isclose(cond_scale, 1.0):
        uncond = None
    with_prompt, without = calc_cond_uncond_batch(model, cond, uncond, x, timestep, options)
    factor = cond_scale if math.isclose(strength, 1.0) else cond_scale * strength
    return without + (with_prompt - without) * factor, with_prompt, without
