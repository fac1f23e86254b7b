"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use
it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from .budget import MAX_TOKENS, dropped, token_budget
from .engines import ENGINES
from .engines.sources import Job, Sources, Text
from .mixing.blend import blend
from .mixing.match import LENGTH_MATCHES, Sides
from .mixing.normalize import NORMALIZATIONS, Normalization, Target, repair_outliers
from .mixing.select import Rows, drop_image_rows, select
from .mixing.statistics import ReferenceStatistics
from .options import PROMPT, Settings
from .reference import Reference
from .sequence import TEMPLATE, TOKEN_MODES, build_sequence


def normalization(settings: Settings) -> Normalization:
    """What the settings bring hidden states to the text encoder's statistics with."""
    return NORMALIZATIONS[settings.normalization if settings.scale_to_text else "none"]


def needs_statistics(settings: Settings) -> bool:
    """Whether the settings use the text encoder's reference statistics."""
    return normalization(settings).needs_statistics or settings.outlier_repair != "none"


def check_layer(settings: Settings, sources: Sources) -> None:
    """Raise ZvlError unless the model that reads has the settings' layer: before anything is loaded or run."""
    ENGINES[settings.engine].module().check_layer(settings, sources)


def extract(settings: Settings, reference: Reference, text: Text, sources: Sources) -> Rows:
    """The hidden states that the settings select, float32 on the CPU."""
    return extract_all(settings, reference, [text], sources)[0]


def extract_all(settings: Settings, reference: Reference, texts: list[Text], sources: Sources) -> list[Rows]:
    """As `extract`, for several prompts: a reference is read once for all of them."""
    jobs = [_job(settings, reference, text, sources) for text in texts]
    states = ENGINES[settings.engine].module().states(settings, reference, jobs, sources)
    return [select(rows, job.sequence, settings.token_mode) for rows, job in zip(states, jobs)]


def _job(settings: Settings, reference: Reference, text: Text, sources: Sources) -> Job:
    checkpoint = sources.extractor.checkpoint
    ids = text.ids
    if settings.vl_prompt != PROMPT:
        ids = tuple(sources.encode(TEMPLATE.format(settings.vl_prompt.replace(PROMPT, text.prompt))))
    budget = token_budget(settings, len(text.ids))
    grid = checkpoint.grid(reference, budget)
    wanted = checkpoint.grid(reference, settings.reference_tokens)
    if grid != wanted:
        sources.say(
            f"Z-Image VL: the reference was reduced from {wanted[0] * wanted[1]} to {grid[0] * grid[1]} tokens, "
            f"so that the conditioning has no more than {MAX_TOKENS}."
        )
    system = settings.system_prompt.replace(PROMPT, text.prompt)
    sequence = build_sequence(ids, grid, sources.encode, system, checkpoint.vision_tokens)
    return Job(text, sequence if TOKEN_MODES[settings.token_mode].text else sequence.without_text(), budget)


def mix(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> torch.Tensor:
    """Repair, normalize, match and blend.

    Row 0 of the result is the text embeddings' own under normalization sink_aware and in engine splice: position 0 is
    the attention sink, which is not about the picture.

    Args:
        text: Text embeddings [n, hidden].
        rows: Selected hidden states.
        statistics: The text encoder's; needed when `needs_statistics` says so.

    Returns:
        The conditioning in the dtype and on the device of `text`, computed in float32. alpha 0 gives `text` itself.
    """
    if settings.alpha == 0.0:
        return text
    base, how = text.float(), normalization(settings)
    states = rows.states.to(text.device, torch.float32)
    states, _ = repair_outliers(states, settings.outlier_repair, settings.outlier_threshold, statistics)
    states = how.function(states, Target(statistics, base, rows.holds_first))
    sides, first = Sides(states, rows.text.to(states.device), base, rows.head, rows.tail), base[:0]
    if ENGINES[settings.engine].keeps_first or how.keeps_first:
        sides, first = sides.without_first(rows.holds_first), base[:1]

    def blended(text: torch.Tensor, vl: torch.Tensor) -> torch.Tensor:
        return blend(text, vl, settings.alpha, settings.blend_mode)

    return torch.cat([first, LENGTH_MATCHES[settings.length_match](sides, blended)]).to(text.dtype)


def condition(settings: Settings, reference: Reference, text: Text, sources: Sources, seed: int = 0) -> torch.Tensor:
    """The conditioning for one prompt: what the image model gets instead of `text.embeddings`.

    Args:
        seed: The picture's; decides which image rows are dropped.

    Raises:
        ZvlError: with one line for the user.
    """
    return condition_all(settings, reference, [text], sources)[0](seed)


def condition_all(
    settings: Settings, reference: Reference, texts: list[Text], sources: Sources
) -> list[Callable[[int], torch.Tensor]]:
    """As `condition`, for several prompts, all read at once: for each a function from a picture's seed to its
    conditioning."""
    if settings.alpha == 0.0:
        return [lambda seed, text=text: text.embeddings for text in texts]
    for text in texts:
        sources.extractor.checkpoint.require_width(text.embeddings.shape[-1])
    statistics = sources.statistics() if needs_statistics(settings) else None

    def mixed(text: Text, rows: Rows, seed: int) -> torch.Tensor:
        rows = drop_image_rows(rows, dropped(settings, int(rows.image.sum())), seed)
        return mix(settings, text.embeddings, rows, statistics)

    return [
        functools.partial(mixed, text, rows)
        for text, rows in zip(texts, extract_all(settings, reference, texts, sources))
    ]
