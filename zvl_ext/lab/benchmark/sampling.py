"""What the tokens cost that a preset adds to the conditioning, in every sampling step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ...attention import FILL, filling, marks
from ...budget import inserted_tokens, token_budget
from ...conditioner import weighs, weighting_of
from ...conditioning import Conditioning, Part
from ...errors import ZvlError
from ...hosts.standalone_attention import weighted
from ...options import Settings
from ...presets import PRESETS, START
from .bench import Row
from .sides import interleaved
from .size import Size
from .weights import DTYPE, random_weight


def added_tokens(preset: str, text_tokens: int) -> int:
    """By how many tokens a preset of engine splice makes the conditioning longer, if the reference fills its budget."""
    settings = Settings().changed({"preset": preset})
    return inserted_tokens(settings, token_budget(settings, text_tokens))


def sampling(size: Size, repetitions: int, say: Callable[[str], None]) -> list[Row]:
    """One step with the prompt alone, and one with each preset of engine splice."""
    presets = {
        name: added_tokens(name, size.text_tokens) for name, preset in PRESETS.items() if preset["engine"] == "splice"
    }
    targets = {name: 1.05 if name == START or PRESETS[name]["image_dropout"] else None for name in presets}
    try:
        model = _transformer(size)
    except ImportError:
        note = "needs diffusers 0.36 or newer: python -m pip install 'diffusers>=0.36'"
        return [Row(f"sampling step, {name}", "s", None, None, targets[name], note=note) for name in presets]
    say("sampling steps")
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(model.config.in_channels, 1, size.latents, size.latents, generator=random).to(DTYPE)
    prompt = torch.randn(size.text_tokens, model.config.cap_feat_dim, generator=random).to(DTYPE)
    texts = {"naive": Conditioning(prompt)}
    for name, added in presets.items():
        block = torch.randn(added, model.config.cap_feat_dim, generator=random).to(DTYPE)
        texts[name] = _weighted(Settings().changed({"preset": name}), block, prompt)

    @torch.inference_mode()
    def step(text: Conditioning) -> torch.Tensor:
        with weighted(model, [text], 1):
            return model([latents], torch.tensor([0.5]), [text.rows], return_dict=False)[0][0]

    def check(number: int, results: dict[str, torch.Tensor]) -> None:
        for name, result in results.items():
            if result.shape != latents.shape or not result.isfinite().all():
                raise ZvlError(f"The image model's step with {name} is not a picture: nothing is measured.")

    seconds = interleaved(
        {name: lambda n, text=text: step(text) for name, text in texts.items()}, repetitions, say, check
    )
    picture = (size.latents // 2) ** 2
    layers, refiners = size.transformer["n_layers"], size.transformer["n_refiner_layers"]
    what = f"{picture} latent tokens; main layers: {layers} of 30, refiners: {refiners} and {refiners}"
    return [
        Row(
            f"sampling step, {name}",
            "s",
            seconds["naive"],
            seconds[name],
            targets[name],
            note=f"{size.text_tokens} + {added} tokens beside {what}",
        )
        for name, added in presets.items()
    ]


def _weighted(settings: Settings, block: torch.Tensor, prompt: torch.Tensor) -> Conditioning:
    """A block of rows in front of a prompt's, with the settings' weight and the rows that fill it up."""
    if not weighs(settings):
        return Conditioning(torch.cat([block, prompt]))
    fill = filling(len(block))
    owner = torch.tensor([1.0] * len(block) + [FILL] * fill + [0.0] * len(prompt))
    rows = torch.cat([block, block[-1:].expand(fill, -1), prompt])
    return Conditioning(rows, (Part(weighting_of(settings)),), marks=marks(owner, owner.clamp_min(0.0)))


def _transformer(size: Size) -> torch.nn.Module:
    from diffusers import ZImageTransformer2DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    with torch.device("meta"):
        model = ZImageTransformer2DModel(**size.transformer)
    model = model.to(DTYPE).to_empty(device="cpu").eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.copy_(random_weight(name, tuple(weight.shape)))
    return model
