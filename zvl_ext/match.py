"""Matching the number of Qwen3-VL's rows to the number of text rows. Pure functions on [tokens, hidden]."""

from __future__ import annotations

import torch


def match_length(vl: torch.Tensor, text: torch.Tensor, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both the same number of rows.

    Args:
        vl: float [m, hidden].
        text: float [n, hidden].
        mode: `interpolate` resamples vl linearly along the sequence to n rows (align_corners False); `truncate` keeps the
            first min(m, n) rows of both.

    Returns:
        vl and text, each [rows, hidden]. With m = n nothing is changed.
    """
    n = text.shape[0]
    if vl.shape[0] == n:
        return vl, text
    if mode == "interpolate":
        resampled = torch.nn.functional.interpolate(vl.T[None], size=n, mode="linear", align_corners=False)
        return resampled[0].T, text
    if mode == "truncate":
        rows = min(vl.shape[0], n)
        return vl[:rows], text[:rows]
    raise ValueError(f"unknown length match {mode!r}")


def match_text(vl: torch.Tensor, text: torch.Tensor, head: int, tail: int) -> torch.Tensor:
    """Give Qwen3-VL's text rows as many rows as the text embeddings have, when it read another text.

    The template's first `head` and last `tail` rows are attention sinks of the image model: they stay one to one, and only
    the rows of the text between them are resampled. Where one of the texts is empty, the text embeddings' rows stay.
    """
    if vl.shape[0] == text.shape[0]:
        return vl
    between, wanted = vl[head : vl.shape[0] - tail], text[head : text.shape[0] - tail]
    if between.shape[0] and wanted.shape[0]:
        wanted, _ = match_length(between, wanted, "interpolate")
    return torch.cat([vl[:head], wanted, vl[vl.shape[0] - tail :]])
