"""How a LoRA's names become the image model's weights: for Z-Image, with the kinds of names that every web UI takes."""

_PARTS = {"to_out.0": "out", "norm_q": "q_norm", "norm_k": "k_norm"}


def _diffusers_names(config):
    """diffusers' name of a layer -> the weight, or a part of it."""
    width, found = config["dim"], {}
    for kind, count in (
        ("layers", config["n_layers"]),
        ("context_refiner", config["n_refiner_layers"]),
        ("noise_refiner", config["n_refiner_layers"]),
    ):
        for block in (f"{kind}.{number}" for number in range(count)):
            for place, part in enumerate("qkv"):
                third = (f"diffusion_model.{block}.attention.qkv.weight", (0, place * width, width))
                found[f"{block}.attention.to_{part}"] = third
            for theirs, ours in _PARTS.items():
                found[f"{block}.attention.{theirs}"] = f"diffusion_model.{block}.attention.{ours}.weight"
            for each in ("w1", "w2", "w3"):
                found[f"{block}.feed_forward.{each}"] = f"diffusion_model.{block}.feed_forward.{each}.weight"
    return found


def model_lora_keys_unet(model, key_map={}):  # noqa: B006  as the web UI has it
    for name in model.state_dict():
        if name.startswith("diffusion_model.") and name.endswith(".weight"):
            key_map[name.removesuffix(".weight")] = name
    of_diffusers = _diffusers_names(model.diffusion_model.config)
    return key_map | {f"diffusion_model.{name}": to for name, to in of_diffusers.items()}


def load_lora(lora, to_load):
    patches, taken = {}, set()
    for name, to in to_load.items():
        up, down, alpha = (f"{name}.{end}" for end in ("lora_B.weight", "lora_A.weight", "alpha"))
        if up in lora:
            patches[to] = (lora[up], lora[down], lora[alpha].item() if alpha in lora else len(lora[down]))
            taken |= {up, down, alpha}
    return patches, {name: each for name, each in lora.items() if name not in taken}


def merge_lora_to_weight(patches, weight, key="online_lora", computation_dtype=None):
    weight = weight.clone()
    for strength, (up, down, alpha), _, offset, _ in patches:
        part = weight if offset is None else weight.narrow(*offset)
        part += strength * alpha / len(down) * up @ down
    return weight
