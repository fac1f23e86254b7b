"""The stages of the models of pictures: autoencoder, classifier, image model, adapter."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from ...qwen3vl import vision
from ..miniature import adapter, family, world
from ..miniature.classifier import Classifier
from .language import encode_prompts, special_ids, tokenizer_of
from .loop import Recipe, Training, averaged, pictures, scenes

PICTURES = 20_000  # that the image model is trained on
POOL = 2000  # that the classifier sees as the autoencoder gives them back


def train_vae(work: str, minutes: float) -> None:
    """Reconstruction by absolute and squared error, edges counted again, the latents drawn faintly towards a normal."""
    model = family.vae().to(memory_format=torch.channels_last)
    training = Training("vae", model, work, Recipe(1800, 0.0, 2e-3, 0.995))
    rng = np.random.default_rng((1, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        x = pictures(scenes(rng, 16), rng).contiguous(memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist
        y = model.decode(posterior.sample()).sample
        error = (y - x).abs().mean() + 2 * (y - x).square().mean()
        edges = sum((y.diff(dim=axis) - x.diff(dim=axis)).abs().mean() for axis in (2, 3))
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        mse = float((y - x).detach().square().mean())
        return error + 0.5 * edges + 2e-3 * kl, {"psnr": float(10 * np.log10(4 / mse)), "kl": float(kl.detach())}

    training.run(loss, minutes)


def train_classifier(work: str, minutes: float) -> None:
    """Tells a picture's attributes, on pictures as drawn and as the autoencoder gives them back."""
    model = Classifier()
    training = Training("classifier", model, work, Recipe(1200, 0.0, 2e-3, 0.99))
    vae = averaged("vae", family.vae(), work)
    rng = np.random.default_rng((3, training.step))
    pool_scenes = scenes(rng, POOL, None)
    with torch.no_grad():
        pool = torch.cat([vae(pictures(pool_scenes[i : i + 50], rng)).sample for i in range(0, len(pool_scenes), 50)])

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        drawn = scenes(rng, 32, None)
        chosen = rng.integers(len(pool), size=32)
        x = torch.cat([pictures(drawn, rng), pool[chosen]])
        labels = torch.tensor([scene.indices() for scene in [*drawn, *(pool_scenes[i] for i in chosen)]])
        x = x + torch.randn_like(x) * torch.rand(len(x), 1, 1, 1) * 0.12
        logits = model(x)
        right = {
            name: float((logit.argmax(1) == labels[:, i]).float().mean())
            for i, (name, logit) in enumerate(logits.items())
        }
        losses = (
            functional.cross_entropy(logit, labels[:, i], label_smoothing=0.02)
            for i, logit in enumerate(logits.values())
        )
        return sum(losses), right

    training.run(loss, minutes)


def latents_of(work: str) -> tuple[torch.Tensor, list[world.Scene], float, float]:
    """Latents of training pictures, made once, with the mean and the scale that bring them near a normal."""
    path = os.path.join(work, "latents.safetensors")
    rng = np.random.default_rng(6)
    shown = scenes(rng, PICTURES)
    if not os.path.isfile(path):
        model = averaged("vae", family.vae(), work)
        with torch.no_grad():
            tensors = [
                model.encode(pictures(shown[i : i + 50], rng)).latent_dist.mode() for i in range(0, len(shown), 50)
            ]
        save_file({"latents": torch.cat(tensors).contiguous()}, path)
    latents = load_file(path)["latents"]
    return latents, shown, float(latents.mean()), 1 / float(latents.std())


def noise_levels(count: int) -> torch.Tensor:
    """Sigma in 0..1: a logit-normal shifted by 3, as sampling is, and three in ten near pure noise.

    Near pure noise a picture's plan is made.
    """
    middle = torch.sigmoid(torch.randn(count))
    return torch.where(torch.rand(count) < 0.7, 3 * middle / (1 + 2 * middle), 0.85 + 0.15 * torch.rand(count))


def flow_matching(
    model: nn.Module, target: torch.Tensor, prompts: list[torch.Tensor]
) -> tuple[torch.Tensor, dict[str, float]]:
    """The image model's error about the way from noise to the latents, in all and by noise level.

    Args:
        target: Latents [batch, 16, height, width].
        prompts: Text embeddings, each [tokens, hidden].
    """
    sigma = noise_levels(len(target))
    noise = torch.randn_like(target)
    level = sigma[:, None, None, None]
    noisy = (1 - level) * target + level * noise
    output = model(list(noisy[:, :, None].unbind()), 1 - sigma, prompts, return_dict=False)[0]
    error = (torch.stack(output)[:, :, 0] - (target - noise)).square().mean((1, 2, 3))
    high = sigma > 0.85
    return error.mean(), {
        "high_noise": float(error[high].detach().mean()),
        "low_noise": float(error[~high].detach().mean()),
    }


def train_transformer(work: str, minutes: float) -> None:
    """Flow matching of the latents under captions of varied completeness."""
    tokenizer = tokenizer_of(work)
    text_encoder = averaged("text_encoder", family.text_encoder(), work, "encoder.")
    latents, shown, mean, scale = latents_of(work)
    latents = (latents - mean) * scale
    model = family.transformer()
    training = Training("transformer", model, work, Recipe(8000, 4e-3, 2e-3, 0.999, 0.0))
    rng = np.random.default_rng((7, training.step))

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.integers(len(latents), size=32)
        captions = [world.caption(shown[i], rng, world.random_mention(rng)) for i in chosen]
        return flow_matching(model, latents[chosen], encode_prompts(text_encoder, tokenizer, captions))

    training.run(loss, minutes)


def train_adapter(work: str, minutes: float) -> None:
    """An adapter to the finished image model, as IP-Adapter trains: another drawing of the scene is the reference.

    Captions leave much out and often everything, so that there is something to learn from the reference.
    """
    tokenizer = tokenizer_of(work)
    text_encoder = averaged("text_encoder", family.text_encoder(), work, "encoder.")
    latents, shown, mean, scale = latents_of(work)
    latents = (latents - mean) * scale
    tower = averaged("qwen3_vl", family.qwen3_vl(special_ids(tokenizer)), work).model.visual
    model = averaged("transformer", family.transformer(), work)
    small = adapter.for_model(model)
    training = Training("adapter", small, work, Recipe(1100, 4e-3, 2e-3, 0.99))
    rng = np.random.default_rng((8, training.step))
    scenes_seen = min(4000, len(shown))
    drawings = [Image.fromarray(world.draw(scene, seed)) for seed, scene in enumerate(shown[:scenes_seen])]
    references = torch.stack([vision.stacked_tokens(tower, drawing)[0] for drawing in drawings])

    def loss() -> tuple[torch.Tensor, dict[str, float]]:
        chosen = rng.integers(scenes_seen, size=32)
        captions = [
            world.caption(shown[i], rng, frozenset() if rng.random() < 0.3 else world.random_mention(rng))
            for i in chosen
        ]
        with small.attached(model, references[chosen]):
            return flow_matching(model, latents[chosen], encode_prompts(text_encoder, tokenizer, captions))

    training.run(loss, minutes)
