"""A small classifier of the world's attributes: the measuring instrument of the evidence."""

from __future__ import annotations

import torch
from torch import nn

from .world import ATTRIBUTES

FEATURES = 64


class Classifier(nn.Module):
    """Pictures [batch, 3, SIZE, SIZE] in -1..1 to logits by attribute, each [batch, values]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in (16, 32, 48, FEATURES):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU(), nn.MaxPool2d(2)]
            channels = width
        self.convolutions = nn.Sequential(*layers)
        self.neck = nn.Sequential(nn.Linear(FEATURES * 25, FEATURES), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(values)) for name, values in ATTRIBUTES.items()})

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """What the heads read, [batch, FEATURES]: distances between sets of pictures are measured on it."""
        return self.neck(self.convolutions(pictures).flatten(1))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}
