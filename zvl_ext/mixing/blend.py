"""Blending Qwen3-VL's hidden states into text embeddings. Pure functions on [tokens, hidden]."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .family import member

EPSILON = 1e-5

Mode = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def linear(text: torch.Tensor, vl: torch.Tensor, alpha: float) -> torch.Tensor:
    """alpha·V + (1 - alpha)·T."""
    return vl if alpha == 1.0 else alpha * vl + (1.0 - alpha) * text


def slerp(text: torch.Tensor, vl: torch.Tensor, alpha: float) -> torch.Tensor:
    """Per row along the arc between both (Shoemake 1985), linear where they are nearly parallel."""
    cosine = torch.nn.functional.cosine_similarity(text, vl, dim=1).clamp(-1.0, 1.0)[:, None]
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    arc = (torch.sin((1.0 - alpha) * angle) * text + torch.sin(alpha * angle) * vl) / sine.clamp_min(EPSILON)
    # Parallel or opposite rows have no arc of their own.
    return torch.where(sine < 1e-3, linear(text, vl, alpha), arc)


def adain(text: torch.Tensor, vl: torch.Tensor, alpha: float) -> torch.Tensor:
    """T with each row's mean and std replaced by V's (Huang & Belongie 2017), then mixed linearly with T."""
    return linear(text, _adain(text, vl, dim=1), alpha)


def adain_per_dim(text: torch.Tensor, vl: torch.Tensor, alpha: float) -> torch.Tensor:
    """As `adain`, with each dimension's mean and std over the rows."""
    return linear(text, _adain(text, vl, dim=0), alpha)


BLEND_MODES: dict[str, Mode] = {"linear": linear, "slerp": slerp, "adain": adain, "adain_per_dim": adain_per_dim}


def blend(text: torch.Tensor, vl: torch.Tensor, alpha: float, mode: str = "linear") -> torch.Tensor:
    """Blend two tensors of the same shape [n, hidden] by the member of BLEND_MODES called `mode`.

    alpha 0 is `text`, bit for bit, and for linear alpha 1 is `vl`.

    Raises:
        ValueError: the shapes differ, alpha is outside 0..1, or the mode is unknown.
    """
    if text.shape != vl.shape:
        raise ValueError(f"shapes differ: text {tuple(text.shape)}, vl {tuple(vl.shape)}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    chosen = member(BLEND_MODES, mode, "blend mode")
    return text if alpha == 0.0 else chosen(text, vl, alpha)


def _adain(content: torch.Tensor, style: torch.Tensor, dim: int) -> torch.Tensor:
    def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        correction = min(1, x.shape[dim] - 1)
        return x.mean(dim=dim, keepdim=True), x.std(dim=dim, correction=correction, keepdim=True)

    content_mean, content_std = moments(content)
    style_mean, style_std = moments(style)
    return (content - content_mean) / (content_std + EPSILON) * style_std + style_mean
