"""One reference and one prompt analysed: what Qwen3-VL makes of them against what the image model takes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ..attention_shares import AttentionShares
from ..conditioner import Unit, check_layer, extract_all
from ..engines import ENGINES
from ..engines.sources import Sources, Text
from ..errors import ZvlError
from ..hidden_layers import LAYERS
from ..image_models import READS
from ..mixing.normalize import NORMALIZATIONS, Target, repair_outliers
from ..mixing.select import Rows
from ..mixing.statistics import (
    Comparison,
    ReferenceStatistics,
    Worst,
    compared,
    moments,
    ratios,
    share,
    typical_norm,
    worst_of,
)
from ..options import Settings
from ..qwen3vl.checkpoint import Checkpoint
from .layers import EncoderStatistics, Layer

KINDS = {"text rows": "text", "image rows": "image", "all rows": "all"}  # and the raw vision tower
VISION = "vision tower, raw"


@dataclass(frozen=True)
class Against:
    """Rows of one kind against the text encoder's.

    Attributes:
        numbers: None where they are as wide as nothing else: then they can't be compared.
        worst: The dimensions that are out most.
        std: Of all their values.
        tokens: How many rows.
        spreads: Of each dimension, on both sides, float [hidden] each: the text encoder's, and theirs.
    """

    numbers: Comparison | None
    worst: list[Worst]
    std: float
    tokens: int
    spreads: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def ratios(self) -> torch.Tensor:
        """Of the spreads, theirs over the text encoder's, the largest first."""
        if self.spreads is None:
            return torch.empty(0)
        text, own = (ReferenceStatistics(each, each, 0.0) for each in self.spreads)
        return ratios(text, own).sort(descending=True).values


def against(reference: ReferenceStatistics, rows: torch.Tensor) -> Against:
    """Compare rows [tokens, hidden] with the text encoder's statistics."""
    own = moments(rows)
    if own.per_dim_std.shape != reference.per_dim_std.shape or not own.tokens:
        return Against(None, [], own.global_std, own.tokens)
    return Against(
        compared(reference, own),
        worst_of(reference, own),
        own.global_std,
        own.tokens,
        (reference.per_dim_std, own.per_dim_std),
    )


@dataclass(frozen=True)
class Kind:
    """Rows of one kind.

    Attributes:
        whole: Against all rows of the text encoder.
        ordinary: The same without position 0 on both sides.
        norms: Of each row, in the order of the sequence.
        positions: Where each stands in the sequence that was read.
        shares: How much of an ordinary blended row is Qwen3-VL's, by normalization; {} where none are blended.
    """

    name: str
    whole: Against
    ordinary: Against
    norms: list[float]
    positions: list[int]
    shares: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AtLayer:
    """One layer of the model that reads.

    Attributes:
        encoder: The text encoder's own at this layer; None where it has none.
        kinds: Qwen3-VL's rows of both kinds, without position 0, against what the image model takes.
    """

    layer: int
    encoder: Layer | None
    kinds: dict[str, Against]


@dataclass(frozen=True)
class Analysis:
    """All of it.

    Attributes:
        about: What was analysed, in words, for the head of a report.
        reference: What the image model takes: the text encoder's, at the layers where that reads.
        reads: Those layers, in words.
        prompts: How many it was measured on.
        prompt: This prompt's own text embeddings against it.
        kinds: Qwen3-VL's rows at the settings' layer, and the raw vision tower.
        layers: By layer, the first one first.
        alpha: The settings'.
        normalization: The settings'.
        shares: The attention that the references get; None where it was not measured.
        note: Why it was not, or what else is to be said.
    """

    about: dict[str, str]
    reference: Layer
    reads: str
    prompts: int
    prompt: Kind
    kinds: tuple[Kind, ...]
    layers: tuple[AtLayer, ...]
    alpha: float
    normalization: str
    shares: AttentionShares | None = None
    note: str = ""


Told = Callable[[str, int, int], None]  # what is being done, how many of it are done, of how many


def analysed(
    unit: Unit, text: Text, sources: Sources, encoder: EncoderStatistics, on_step: Told = lambda what, done, of: None
) -> Analysis:
    """Analyse what a reference and a prompt give.

    Args:
        unit: The reference with its settings.
        text: The prompt as the image model takes it.
        encoder: Of the image model's text encoder.
        on_step: Told what is being done; what it raises ends the work.

    Raises:
        ZvlError: with one line for the user.
    """
    settings, model = unit.settings, sources.model
    taken = encoder.at(model.read_at(READS, len(encoder.layers)))
    said: set[str] = set()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    say, sources = sources.say, dataclasses.replace(sources, every_layer=True, say=once)
    whole = settings.changed({"token_mode": "all"})
    check_layer(whole, sources, unit.projection)
    on_step("looking with the vision tower", 0, 1)  # first: Qwen3-VL may take its place, and stays for a picture
    tower = _tower(unit, sources)
    layers = _layers(whole, sources)
    at_layers, states = [], {}
    for done, layer in enumerate(layers):  # the deepest first: the others are on its way
        on_step("reading the reference, layer", done, len(layers))
        own = whole.changed({"hidden_layer": layer, "layer_mix": "", "image_layers": ""})
        (rows,) = extract_all(own, unit.reference, [text], sources)
        states[layer] = rows
        at_layers.append(
            AtLayer(
                layer,
                encoder.layers[layer] if -layer <= len(encoder.layers) else None,
                {name: against(taken.ordinary, _of(rows, name, ordinary=True)) for name in list(KINDS)[:2]},
            )
        )
    (rows,) = extract_all(whole, unit.reference, [text], sources, projection=unit.projection)
    embeddings = text.embeddings.float().cpu()
    kinds = [_kind(name, rows, taken, settings, embeddings) for name in KINDS]
    raw = against(taken.whole, tower), against(taken.ordinary, tower)
    kinds.append(Kind(VISION, *raw, tower.norm(dim=1).tolist(), list(range(len(tower)))))
    prompt = Kind(
        "this prompt's text embeddings",
        against(taken.whole, embeddings),
        against(taken.ordinary, embeddings[1:]),
        embeddings.norm(dim=1).tolist(),
        list(range(len(embeddings))),
    )
    about = about_of(settings, text, sources.extractor.checkpoint)
    return Analysis(
        about,
        taken,
        ", ".join(str(layer) for layer in model.read_at(READS, len(encoder.layers))),
        encoder.prompts,
        prompt,
        tuple(kinds),
        tuple(reversed(at_layers)),
        settings.alpha,
        about["normalization"],
    )


def about_of(settings: Settings, text: Text, checkpoint: Checkpoint) -> dict[str, str]:
    """What is analysed, in words."""
    layer = settings.layer_mix or str(settings.hidden_layer)
    if settings.image_layers:
        layer += f" (image: {settings.image_layers})"
    return {
        "Qwen3-VL": checkpoint.name,
        "engine": settings.engine,
        "hidden layer": layer,
        "prompt": text.prompt,
        "alpha": f"{settings.alpha:g}",
        "normalization": settings.normalization if settings.scale_to_text else "none",
    }


def _layers(settings: Settings, sources: Sources) -> list[int]:
    """The layers that settings can name for the model that reads, the last one first."""
    found = []
    module = ENGINES[settings.engine].module()
    for layer in range(-1, -LAYERS - 1, -1):
        with contextlib.suppress(ZvlError):
            module.check_layer(settings.changed({"hidden_layer": layer, "layer_mix": "", "image_layers": ""}), sources)
            found.append(layer)
    return found


def _of(rows: Rows, kind: str, ordinary: bool = False) -> torch.Tensor:
    """The rows of a kind [n, hidden]."""
    return rows.states[_where(rows, kind, ordinary)]


def _where(rows: Rows, kind: str, ordinary: bool = False) -> torch.Tensor:
    where = {"text": rows.text, "image": rows.image, "all": torch.ones_like(rows.text)}[KINDS[kind]].clone()
    if ordinary and rows.holds_first:
        where[0] = False
    return where


def _tower(unit: Unit, sources: Sources) -> torch.Tensor:
    """What the vision tower gives the language model, float32 [tokens, hidden]."""
    tokens = unit.settings.reference_tokens
    return sources.extractor.image_tokens(unit.reference, tokens)[0].float().cpu()


def _kind(name: str, rows: Rows, taken: Layer, settings: Settings, embeddings: torch.Tensor) -> Kind:
    states, where = _of(rows, name), _where(rows, name)
    return Kind(
        name,
        against(taken.whole, states),
        against(taken.ordinary, _of(rows, name, ordinary=True)),
        states.norm(dim=1).tolist(),
        where.nonzero().flatten().tolist(),
        _shares(rows, name, taken.whole, settings, embeddings),
    )


def _shares(
    rows: Rows, kind: str, reference: ReferenceStatistics, settings: Settings, embeddings: torch.Tensor
) -> dict[str, float]:
    """How much of an ordinary blended row is Qwen3-VL's at the settings' alpha, by the sizes of both sides' rows, under
    the settings' outlier repair and each normalization."""
    where = _where(rows, kind)
    states, holds_first = rows.states[where], bool(where[0]) and rows.holds_first
    if reference.per_dim_std.shape[0] != states.shape[1] or embeddings.shape[0] < 2:
        return {}
    states, _ = repair_outliers(
        states, settings.outlier_repair, settings.outlier_threshold, reference, settings.outlier_direction
    )
    size = typical_norm(embeddings[1:])
    found: dict[str, float] = {}
    for name, way in NORMALIZATIONS.items():
        scaled = way.function(states, Target(reference, embeddings, holds_first))
        found[name] = share(settings.alpha, typical_norm(scaled[1:] if holds_first else scaled), size)
    return found
