"""What the classifier says about pictures: how well they follow a scene, how near a set of them is to real ones."""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image

from . import family
from .classifier import Classifier
from .world import ATTRIBUTES, JUDGED, Scene

UNSURE = 0.5  # below this probability no value of an attribute fits a picture


def load_classifier(folder: str = family.WEIGHTS) -> Classifier:
    from safetensors.torch import load_file

    model = Classifier()
    model.load_state_dict(
        {key: value.float() for key, value in load_file(os.path.join(folder, "classifier.safetensors")).items()}
    )
    return model.eval().requires_grad_(False)


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """[batch, 3, height, width] in -1..1."""
    pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


@torch.inference_mode()
def read(classifier: Classifier, pictures: list[Image.Image]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Probabilities by attribute, each [batch, values], and features [batch, FEATURES]."""
    x = as_tensor(pictures)
    features = torch.cat([classifier.features(part) for part in x.split(64)])
    return {name: head(features).softmax(1) for name, head in classifier.heads.items()}, features


def follows(probabilities: dict[str, torch.Tensor], scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """How probable each picture's classifier finds its scene's own value, [batch] by judged attribute."""
    row = torch.arange(len(scenes))
    return {
        name: probabilities[name][row, torch.tensor([ATTRIBUTES[name].index(getattr(scene, name)) for scene in scenes])]
        for name in JUDGED
    }


def unlike_any(probabilities: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which pictures have a judged attribute that no value fits, bool [batch]."""
    return torch.stack([probabilities[name].amax(1) < UNSURE for name in JUDGED]).any(0)


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Between normal distributions fitted to two sets of features, [pictures, FEATURES] each.

    After Heusel et al., arXiv 1706.08500.
    """
    a, b = a.double(), b.double()
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * cross)
