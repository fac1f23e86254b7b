"""How Qwen3-VL's hidden states compare with the text embeddings, with and without position 0, the attention sink."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...engines.sources import Text
from ...hosts.standalone import ZImage
from ...hosts.standalone_text import TEXT_LAYER, StandaloneTextEncoder
from ...mixing.normalize import NORMALIZATIONS, Target, normalize
from ...mixing.select import Rows, select
from ...mixing.statistics import ReferenceStatistics, compare, compared, moments, share, sink, typical_norm, worst_of
from ...options import Settings
from ...qwen3vl import language
from ...qwen3vl.language import Qwen3VL
from ...reference import Reference
from ...sequence import build_sequence
from .experiments import TEXT

TOLD = ("text_std", "vl_std", "correlation", "median_ratio", "worst_ratio", "worst_dimensions", "outliers")
SETTINGS = Settings.from_mapping(TEXT)
ALPHA = 0.3  # at which Qwen3-VL's share of a token is told


@torch.inference_mode()
def hidden_state_statistics(model: ZImage, prompts: list[str], references: list[Reference]) -> dict[str, Any]:
    """Measure pairs of a prompt and a reference.

    Returns:
        `sink`: how much the first token stands out, by language model. `drift`: how far Qwen3-VL's is from the text
        encoder on text alone. `compared`: the states after a reference against the text embeddings, by positions and
        layer, with and without position 0. `share`: how much of an ordinary blended token is Qwen3-VL's, by positions
        and normalization.
    """
    texts = [model.text(prompt) for prompt in prompts]
    embeddings = [text.embeddings for text in texts]
    reader = language.load(model.extractor.checkpoint, torch.float32)
    of_text_alone = _states_of_text_alone(reader, texts)
    result: dict[str, Any] = {
        "sink": {"text encoder": _sink(embeddings), "Qwen3-VL": _sink(of_text_alone)},
        "drift": {
            "cosine": float(
                torch.cat(
                    [torch.cosine_similarity(a[1:], b[1:], dim=1) for a, b in zip(embeddings, of_text_alone)]
                ).mean()
            ),
            "correlation": compare(torch.cat(embeddings), torch.cat(of_text_alone))["correlation"],
        },
        "compared": {},
        "share": {},
    }
    every, ordinary = torch.cat(embeddings), torch.cat([each[1:] for each in embeddings])
    for layer in (TEXT_LAYER, SETTINGS.hidden_layer):
        for name, rows in _after_reference(reader, model, texts, references, layer).items():
            first = 1 if rows[0].holds_first else 0
            result["compared"][f"{name}, layer {layer}"] = {
                "with position 0": _told(every, torch.cat([row.states for row in rows])),
                "without position 0": _told(ordinary, torch.cat([row.states[first:] for row in rows])),
            }
            if layer == SETTINGS.hidden_layer:
                result["share"][name] = _shares(rows, texts, model.statistics)
    return result


def _states_of_text_alone(reader: Qwen3VL, texts: list[Text]) -> list[torch.Tensor]:
    """What Qwen3-VL's language model makes of the prompts in the text encoder's place, each [tokens, hidden]."""
    module = reader.module.language_model
    module.embed_tokens = reader.embedding
    encoder = StandaloneTextEncoder(module, "Qwen3-VL")
    return [encoder.hidden_states(encoder.embed(list(text.ids)), TEXT_LAYER, None, None) for text in texts]


def _after_reference(
    reader: Qwen3VL, model: ZImage, texts: list[Text], references: list[Reference], layer: int
) -> dict[str, list[Rows]]:
    """The selected hidden states of each pair, by positions."""
    checkpoint, image_tokens = model.extractor.checkpoint, SETTINGS.reference_tokens
    picked: dict[str, list[Rows]] = {"text positions": [], "image positions": []}
    for text, reference in zip(texts, references):
        grid = checkpoint.grid(reference, image_tokens)
        sequence = build_sequence(text.ids, grid, model.encode, vision=checkpoint.vision_tokens)
        states = reader.hidden_states(sequence, reference, image_tokens, [layer])[layer]
        picked["text positions"].append(select(states, sequence, "text"))
        picked["image positions"].append(select(states, sequence, "image_no_markers"))
    return picked


def _sink(states: list[torch.Tensor]) -> dict[str, float]:
    """The first token's norm against the median of the others, and what it does to the spread of all values."""
    found = sink(states)
    return {
        "first": found.first,
        "others": found.others,
        "ratio": found.ratio,
        "std": found.std,
        "std without position 0": found.ordinary_std,
    }


def _told(text: torch.Tensor, states: torch.Tensor) -> dict[str, Any]:
    """How states compare with text embeddings; `worst_stds` says which side is the larger in the worst dimension."""
    both = moments(text), moments(states)
    worst, numbers = worst_of(*both)[0], compared(*both)
    return {key: numbers[key] for key in TOLD} | {"worst_stds": [worst.text, worst.vl]}


def _shares(rows: list[Rows], texts: list[Text], statistics: ReferenceStatistics) -> dict[str, float]:
    """By normalization: which share of an ordinary blended token is Qwen3-VL's at ALPHA, by the rows' sizes."""
    shares = {}
    for name in NORMALIZATIONS:
        ratios = []
        for row, text in zip(rows, texts):
            scaled = normalize(row.states, name, Target(statistics, text.embeddings, row.holds_first))
            ordinary = scaled[1:] if row.holds_first else scaled
            ratios.append(typical_norm(ordinary) / typical_norm(text.embeddings[1:]))
        shares[name] = share(ALPHA, float(np.median(ratios)), 1.0)
    return shares
