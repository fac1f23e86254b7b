"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use
it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .attention import FILL, filling, marks
from .budget import MAX_TOKENS, dropped, inserts, lengths_agree, token_budget
from .engines import ENGINES
from .engines.sources import Job, Sources, Text
from .errors import ZvlError
from .mixing.blend import blend
from .mixing.match import BLOCK_PLACES, LENGTH_MATCHES, Sides
from .mixing.normalize import NORMALIZATIONS, Normalization, Target, repair_outliers
from .mixing.select import Rows, drop_image_rows, merge_image_rows, select
from .mixing.statistics import ReferenceStatistics
from .options import PROMPT, Settings
from .reference import Reference
from .sequence import TEMPLATE, TOKEN_MODES, build_sequence
from .texts import filled
from .weighting import Weighting


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
    def own(name: str) -> str:
        return filled(name, getattr(settings, name), text.prompt, sources.encode)

    checkpoint = sources.extractor.checkpoint
    ids, masked = text.ids, text.masked
    if settings.vl_prompt != PROMPT:
        masked = 0  # what the host masks is of its own prompt
        ids = tuple(sources.encode(TEMPLATE.format(own("vl_prompt"))))
    budget = token_budget(settings, len(text.ids))
    grid = checkpoint.grid(reference, budget)
    wanted = checkpoint.grid(reference, settings.reference_tokens)
    if grid != wanted:
        sources.say(
            f"Z-Image VL: the reference was reduced from {wanted[0] * wanted[1]} to {grid[0] * grid[1]} tokens, "
            f"so that the conditioning has no more than {MAX_TOKENS}."
        )
    sequence = build_sequence(ids, grid, sources.encode, own("system_prompt"), checkpoint.vision_tokens, masked)
    return Job(text, sequence if TOKEN_MODES[settings.token_mode].text else sequence.without_text(), budget)


@dataclass(frozen=True)
class Conditioning:
    """What the image model gets for one prompt.

    Attributes:
        rows: float [rows, hidden], with the reference at its full part.
        weighting: When, where and how strongly the image model looks at the reference.
        plain: float [rows, hidden], as `rows` with the prompt's own rows as they are without a reference; of another
            length only under length match truncate. None where there is no difference.
        marks: float [rows, 2], as in `attention`; None where the image model has nothing to weigh.
    """

    rows: torch.Tensor
    weighting: Weighting
    plain: torch.Tensor | None = None
    marks: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steady(self) -> bool:
        """Whether the rows alone are all of it: the same at every step, and nothing to weigh."""
        return self.marks is None and (self.plain is None or self.weighting.constant)

    def at(self, way: float) -> torch.Tensor:
        """The rows at a share of the steps that are done."""
        part = self.weighting.part(way)
        if self.plain is None or part == 1.0:
            return self.rows
        if part == 0.0:
            return self.plain
        plain = self.plain[: len(self.rows)]  # between two rows there is nothing that their dtype can't hold
        return (part * self.rows.float() + (1.0 - part) * plain.float()).to(self.rows.dtype)


def weighting_of(settings: Settings) -> Weighting:
    """What the settings say of the weight. Where no rows are inserted, steps are all that can be weighed."""
    if inserts(settings):
        return Weighting(settings.weight, settings.start, settings.end, settings.curve, settings.blocks)
    if settings.length_match == "truncate" and not lengths_agree(settings):
        return Weighting()
    return Weighting(start=settings.start, end=settings.end, curve=settings.curve)


def plain_picture(settings: Settings) -> bool:
    """Whether the settings make the picture that there is without a reference: nothing need be loaded or read."""
    return settings.alpha == 0.0 or weighting_of(settings).idle


def weighs(settings: Settings) -> bool:
    """Whether the settings want something of the image model besides rows: a weight, or other rows at some steps."""
    fewer = settings.merge > 1 or settings.image_dropout > 0
    counted = inserts(settings) and settings.proportional and fewer
    return not plain_picture(settings) and (counted or not weighting_of(settings).plain)


def mix(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> torch.Tensor:
    """As `mixed`, the rows with the reference at its full part [rows, hidden]."""
    return mixed(settings, text, rows, statistics).rows


def mixed(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> Conditioning:
    """Repair, normalize, match and blend.

    Row 0 of the text is the text embeddings' own under normalization sink_aware and in engine splice: position 0 is the
    attention sink, which is not about the picture.

    Args:
        text: Text embeddings [n, hidden].
        rows: Selected hidden states.
        statistics: The text encoder's; needed when `needs_statistics` says so.

    Returns:
        The conditioning in the dtype and on the device of `text`, computed in float32. alpha 0 gives `text` itself.

    Raises:
        ZvlError: it has values that are not finite.
    """
    if plain_picture(settings):
        return Conditioning(text, Weighting())
    return _finite(_mixed(settings, text, rows, statistics), text)


def _finite(made: Conditioning, text: torch.Tensor) -> Conditioning:
    """The one place that everything passes on its way to the image model: what is not finite goes no further."""
    if all(rows.isfinite().all() for rows in (made.rows, made.plain) if rows is not None):
        return made
    if not text.isfinite().all():
        raise ZvlError(
            "The text encoder gives values that are not finite, with a reference or without. Shorten the prompt, or "
            "let the text encoder compute in bfloat16 or float32."
        )
    raise ZvlError(
        f"The mix has values that are not finite in {str(text.dtype).removeprefix('torch.')}. Choose a smaller alpha, "
        "or another normalization, outlier repair or blend mode."
    )


def _mixed(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> Conditioning:
    base, how = text.float(), normalization(settings)
    states = rows.states.to(text.device, torch.float32)
    states, _ = repair_outliers(
        states, settings.outlier_repair, settings.outlier_threshold, statistics, settings.outlier_direction
    )
    states = how.function(states, Target(statistics, base, rows.holds_first))
    own = rows.text.to(states.device)
    sides, first = Sides(states, own, base, rows.head, rows.tail), base[:0]
    if ENGINES[settings.engine].keeps_first or how.keeps_first:
        sides, first = sides.without_first(rows.holds_first), base[:1]

    def blended(text: torch.Tensor, vl: torch.Tensor) -> torch.Tensor:
        return blend(text, vl, settings.alpha, settings.blend_mode)

    match, weighting = LENGTH_MATCHES[settings.length_match], weighting_of(settings)
    made = torch.cat([first, match.text(sides, blended)])
    changed = made is not base and not torch.equal(made, base)
    if not match.inserts or not (~own).any():
        return Conditioning(made.to(text.dtype), weighting, text if changed else None)
    block, counts = states[~own], rows.counts.to(states.device)[~own]
    weighed = not weighting.plain or bool((counts != 1).any())
    fill = filling(len(block)) if weighed else 0
    block = torch.cat([block, block[-1:].expand(fill, -1)])
    place = BLOCK_PLACES[settings.block_place](rows.head)

    def beside(prompt: torch.Tensor) -> torch.Tensor:
        return torch.cat([prompt[:place], block, prompt[place:]]).to(text.dtype)

    def column(of_block: torch.Tensor, of_fill: float) -> torch.Tensor:
        whole = torch.zeros(len(made) + len(block), device=states.device)
        whole[place : place + len(of_block)] = of_block
        whole[place + len(of_block) : place + len(block)] = of_fill
        return whole

    marked = marks(column(torch.ones_like(counts), FILL), column(counts, 0.0)) if weighed else None
    return Conditioning(beside(made), weighting, beside(base) if changed else None, marked)


def condition(settings: Settings, reference: Reference, text: Text, sources: Sources, seed: int = 0) -> torch.Tensor:
    """The conditioning for one prompt: what the image model gets instead of `text.embeddings`.

    Args:
        seed: The picture's; decides which image rows are dropped.

    Raises:
        ZvlError: with one line for the user.
    """
    return condition_all(settings, reference, [text], sources)[0](seed).rows


def condition_all(
    settings: Settings, reference: Reference, texts: list[Text], sources: Sources
) -> list[Callable[[int], Conditioning]]:
    """As `condition`, for several prompts, all read at once: for each a function from a picture's seed to its
    conditioning."""

    def plain(text: Text, seed: int) -> Conditioning:
        return Conditioning(text.embeddings, Weighting())

    if plain_picture(settings):
        return [functools.partial(plain, text) for text in texts]
    for text in texts:
        sources.extractor.checkpoint.require_width(text.embeddings.shape[-1])
    statistics = sources.statistics() if needs_statistics(settings) else None
    counted = inserts(settings) and settings.proportional
    extracted = [
        merge_image_rows(rows, settings.merge, counted) if inserts(settings) else rows
        for rows in extract_all(settings, reference, texts, sources)
    ]

    def made(text: Text, rows: Rows, seed: int) -> Conditioning:
        fewer = drop_image_rows(rows, dropped(settings, int(rows.image.sum())), seed, counted)
        return mixed(settings, text.embeddings, fewer, statistics)

    return [functools.partial(made, text, rows) for text, rows in zip(texts, extracted)]
