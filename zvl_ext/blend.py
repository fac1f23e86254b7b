"""Blending Qwen3-VL's hidden states into text embeddings. Pure functions on [tokens, hidden]."""

from __future__ import annotations

import torch

EPSILON = 1e-5


def blend(text: torch.Tensor, vl: torch.Tensor, alpha: float, mode: str = "linear") -> torch.Tensor:
    """Blend two tensors of the same shape [n, hidden]; alpha 0 is `text`, bit for bit, and for linear alpha 1 is `vl`.

    Modes:
        linear: alpha·V + (1 - alpha)·T.
        slerp: per row along the arc between both (Shoemake 1985), linear where they are nearly parallel.
        adain: T with each row's mean and std replaced by V's (Huang & Belongie 2017), then mixed linearly with T.
        adain_per_dim: the same with each dimension's mean and std over the rows.

    Raises:
        ValueError: the shapes differ, alpha is outside 0..1, or the mode is unknown.
    """
    if text.shape != vl.shape:
        raise ValueError(f"shapes differ: text {tuple(text.shape)}, vl {tuple(vl.shape)}")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, not {alpha}")
    if alpha == 0.0:
        return text
    if mode == "linear":
        return alpha * vl + (1.0 - alpha) * text
    if mode == "slerp":
        return _slerp(text, vl, alpha)
    if mode == "adain":
        return alpha * _adain(text, vl, dim=1) + (1.0 - alpha) * text
    if mode == "adain_per_dim":
        return alpha * _adain(text, vl, dim=0) + (1.0 - alpha) * text
    raise ValueError(f"unknown blend mode {mode!r}")


def _slerp(text: torch.Tensor, vl: torch.Tensor, alpha: float) -> torch.Tensor:
    cosine = torch.nn.functional.cosine_similarity(text, vl, dim=1).clamp(-1.0, 1.0)[:, None]
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    arc = (torch.sin((1.0 - alpha) * angle) * text + torch.sin(alpha * angle) * vl) / sine.clamp_min(EPSILON)
    # Parallel or opposite rows have no arc of their own.
    return torch.where(sine < 1e-3, alpha * vl + (1.0 - alpha) * text, arc)


def _adain(content: torch.Tensor, style: torch.Tensor, dim: int) -> torch.Tensor:
    def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        correction = min(1, x.shape[dim] - 1)
        return x.mean(dim=dim, keepdim=True), x.std(dim=dim, correction=correction, keepdim=True)

    content_mean, content_std = moments(content)
    style_mean, style_std = moments(style)
    return (content - content_mean) / (content_std + EPSILON) * style_std + style_mean
