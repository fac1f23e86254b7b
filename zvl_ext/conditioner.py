"""The one pipeline: text embeddings and a reference image in, conditioning out. Every host and the command line use
it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .budget import MAX_TOKENS, dropped, inserts, lengths_agree, token_budget
from .conditioning import Conditioning, Part, joined
from .declaration import numbered
from .engines import ENGINES
from .engines.sources import Job, Sources, Text
from .errors import ZvlError, untitled
from .framing import framed, framed_mask, mask_of
from .hidden_layers import hidden_layers
from .image_models import ImageModel
from .mixing.blend import blend
from .mixing.match import BLOCK_PLACES, LENGTH_MATCHES, Sides
from .mixing.normalize import NORMALIZATIONS, Normalization, Target, repair_outliers
from .mixing.select import Rows, drop_image_rows, keep_masked_image_rows, merge_image_rows, select
from .mixing.statistics import ReferenceStatistics
from .options import PROMPT, UNIT_OPTIONS, Settings
from .profiles import Profile
from .projections import Projection
from .reference import Reference, open_mask, open_reference
from .regions import Frame, region_of
from .sequence import PICTURE, TOKEN_MODES, build_sequence_of
from .texts import filled
from .weighting import Weighting


def normalization(settings: Settings) -> Normalization:
    """What the settings bring hidden states to the text encoder's statistics with."""
    return NORMALIZATIONS[settings.normalization if settings.scale_to_text else "none"]


def needs_statistics(settings: Settings) -> bool:
    """Whether the settings use the text encoder's reference statistics."""
    return normalization(settings).needs_statistics or settings.outlier_repair != "none"


def check_layer(settings: Settings, sources: Sources, projection: Projection | None = None) -> None:
    """Raise ZvlError unless the model that reads has the settings' layers, and the projection of its states, if there
    is one, has them, too: before anything is loaded or run."""
    ENGINES[settings.engine].module().check_layer(settings, sources)
    if projection is not None:
        checkpoint = sources.extractor.checkpoint
        hidden = checkpoint.hidden_size * len(sources.model.layers)
        projection.check(hidden, checkpoint.name, checkpoint.fingerprint, hidden_layers(settings).every)


def projected_by(settings: Settings, projection: Projection | None) -> Projection | None:
    """The projection that acts: Qwen3-VL's own states have one, the text encoder's need none."""
    return projection if ENGINES[settings.engine].language_model else None


def extract(settings: Settings, reference: Reference, text: Text, sources: Sources) -> Rows:
    """The hidden states that the settings select, float32 on the CPU."""
    return extract_all(settings, reference, [text], sources)[0]


def extract_all(
    settings: Settings,
    reference: Reference,
    texts: list[Text],
    sources: Sources,
    references: int = 1,
    projection: Projection | None = None,
) -> list[Rows]:
    """As `extract`, for several prompts: a reference is read once for all of them.

    Args:
        references: How many share the conditioning's tokens.
        projection: What the states go through.
    """
    jobs = [_job(settings, [("", reference)], text, sources, references) for text in texts]
    states = ENGINES[settings.engine].module().states(settings, reference, jobs, sources)
    return [_selected(settings, rows, job, projection) for rows, job in zip(states, jobs)]


def extract_in_turn(units: list[Unit], texts: list[Text], sources: Sources) -> list[list[Rows]]:
    """As `extract_all`, of references that are read one after another in one sequence: each has seen those before it,
    and the prompt all of them. For each reference a list."""
    settings = units[0].settings
    pictures = [(PICTURE.format(unit.number), unit.reference) for unit in units]
    jobs = [_job(settings, pictures, text, sources, len(units)) for text in texts]
    states = ENGINES[settings.engine].module().states(settings, tuple(unit.reference for unit in units), jobs, sources)
    projection = units[0].projection
    return [
        [_selected(settings, rows, job, projection, number) for rows, job in zip(states, jobs)]
        for number in range(len(units))
    ]


def _selected(
    settings: Settings, states: dict[int, torch.Tensor], job: Job, projection: Projection | None, picture: int = 0
) -> Rows:
    """One picture's rows, of the layers that the settings name, each through its own map of a projection."""
    by_layer = {layer: select(whole, job.sequence, settings.token_mode, picture) for layer, whole in states.items()}
    if projection is not None:
        by_layer = {
            layer: dataclasses.replace(each, states=projection.project(layer, each.states, each.holds_first))
            for layer, each in by_layer.items()
        }
    rows = by_layer[min(by_layer)]
    mixed = hidden_layers(settings).mixed({layer: each.states for layer, each in by_layer.items()}, ~rows.text)
    return dataclasses.replace(rows, states=mixed)


def _job(
    settings: Settings, pictures: list[tuple[str, Reference]], text: Text, sources: Sources, references: int
) -> Job:
    """What is to be read for one prompt.

    Args:
        pictures: The references that are read together, each with the text that stands before it, or "".
        references: How many share the conditioning's tokens.
    """

    def own(name: str) -> str:
        return filled(name, getattr(settings, name), text.prompt, sources.encode)

    checkpoint, template = sources.extractor.checkpoint, sources.model.template
    ids, masked = text.ids, text.masked
    if settings.vl_prompt != PROMPT:
        ids = template.ids(own("vl_prompt"), sources.encode)
        masked = template.filled(ids, sources.encode)  # what else the host masks is of its own prompt
    budget = token_budget(settings, len(text.ids), references)
    grids = [(name, checkpoint.grid(reference, budget)) for name, reference in pictures]
    for (_, grid), (_, reference) in zip(grids, pictures):
        wanted = checkpoint.grid(reference, settings.reference_tokens)
        if grid != wanted:
            sources.say(
                f"Z-Image VL: the reference was reduced from {wanted[0] * wanted[1]} to {grid[0] * grid[1]} tokens, "
                f"so that the conditioning has no more than {MAX_TOKENS}."
            )
    sequence = build_sequence_of(
        ids, grids, sources.encode, own("system_prompt"), checkpoint.vision_tokens, masked, template
    )
    return Job(text, sequence if TOKEN_MODES[settings.token_mode].text else sequence.without_text(), budget)


def weighting_of(settings: Settings, profile: Profile | None = None) -> Weighting:
    """What the settings say of the weight. Where no rows are inserted, steps are all that can be weighed.

    Args:
        profile: The one that they name; one that changes nothing is left out.
    """
    if inserts(settings):
        acting = None if profile is None or profile.idle else profile
        return Weighting(settings.weight, settings.start, settings.end, settings.curve, settings.blocks, acting)
    if settings.length_match == "truncate" and not lengths_agree(settings):
        return Weighting()
    return Weighting(start=settings.start, end=settings.end, curve=settings.curve)


def plain_picture(settings: Settings) -> bool:
    """Whether the settings make the picture that there is without a reference: nothing need be loaded or read."""
    return settings.alpha == 0.0 or weighting_of(settings).idle


def weighs(settings: Settings, profile: Profile | None = None) -> bool:
    """Whether the settings want something of the image model besides rows: a weight, or other rows at some steps."""
    fewer = settings.merge > 1 or settings.image_dropout > 0
    counted = inserts(settings) and settings.proportional and fewer
    return not plain_picture(settings) and (counted or not weighting_of(settings, profile).plain)


def mix(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> torch.Tensor:
    """As `mixed`, the rows with the reference at its full part [rows, hidden]."""
    return mixed(settings, text, rows, statistics).rows


def mixed(settings: Settings, text: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None) -> Conditioning:
    """Repair, normalize, match and blend one reference's rows with the prompt's.

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
        return Conditioning(text)
    base = text.float()
    place = BLOCK_PLACES[settings.block_place](rows.head)
    return _finite(joined(base, (part(settings, base, rows, statistics),), place, text.dtype), text)


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


def part(
    settings: Settings,
    text: torch.Tensor,
    rows: Rows,
    statistics: ReferenceStatistics | None,
    profile: Profile | None = None,
) -> Part:
    """One reference's part.

    Row 0 of the text is the text embeddings' own under normalization sink_aware and in engine splice: position 0 is the
    attention sink, which is not about the picture.

    Args:
        text: Text embeddings, float32 [n, hidden].
        rows, statistics: As for `mixed`.
        profile: As for `weighting_of`.
    """
    weighting = weighting_of(settings, profile)
    how = normalization(settings)
    states = rows.states.to(text.device, torch.float32)
    states, _ = repair_outliers(
        states, settings.outlier_repair, settings.outlier_threshold, statistics, settings.outlier_direction
    )
    states = how.function(states, Target(statistics, text, rows.holds_first))
    own = rows.text.to(states.device)
    sides, first = Sides(states, own, text, rows.head, rows.tail), text[:0]
    if ENGINES[settings.engine].keeps_first or how.keeps_first:
        sides, first = sides.without_first(rows.holds_first), text[:1]

    def blended(text: torch.Tensor, vl: torch.Tensor) -> torch.Tensor:
        return blend(text, vl, settings.alpha, settings.blend_mode)

    match = LENGTH_MATCHES[settings.length_match]
    made = torch.cat([first, match.text(sides, blended)])
    changed = None if torch.equal(made, text) else made
    if not match.inserts or not (~own).any():
        return Part(weighting, changed)
    return Part(weighting, changed, states[~own], rows.counts.to(states.device)[~own])


def condition(settings: Settings, reference: Reference, text: Text, sources: Sources, seed: int = 0) -> torch.Tensor:
    """The conditioning for one prompt: what the image model gets instead of `text.embeddings`.

    Args:
        seed: The picture's; decides which image rows are dropped.

    Raises:
        ZvlError: with one line for the user.
    """
    return condition_all(settings, reference, [text], sources)[0](seed).rows


@dataclass(frozen=True)
class Unit:
    """One reference with what it is to do.

    Attributes:
        settings: Its own; how rows are read and mixed is alike in all units of a picture.
        reference: What of the picture is read.
        region: As `conditioning.Part`'s.
        mask: Over the reference, float [height, width] in 0..1: where it counts; None: everywhere.
        number: Which of the picture's references it is, from 1.
        pictures: The reference and its masks as they were given, by the names of their options.
        profile: What its weight is multiplied with; the same in all units of a picture.
        projection: What the states that are read go through; likewise.
    """

    settings: Settings
    reference: Reference
    region: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    number: int = 1
    pictures: dict[str, Reference] = field(default_factory=dict)
    profile: Profile | None = None
    projection: Projection | None = None

    @property
    def weighting(self) -> Weighting:
        return weighting_of(self.settings, self.profile)


def units_of(
    settings: Settings,
    shape: tuple[int, int],
    frame: Frame | None = None,
    profile: Profile | None = None,
    projection: Projection | None = None,
) -> list[Unit]:
    """The references of a picture that have a part in it, opened and framed.

    Args:
        shape: The picture's width and height.
        frame: What of it is sampled, and where it is repainted; default: all of it, and nobody says.
        profile, projection: Those that the settings name.

    Raises:
        ZvlError: a reference or a mask can't be read; a mask has nothing in it.
    """
    acting = {number: own for number, own in settings.units.items() if not plain_picture(own)}
    learned: dict[str, Any] = {"profile": profile, "projection": projected_by(settings, projection)}
    return [dataclasses.replace(unit_of(number, own, shape, frame), **learned) for number, own in acting.items()]


def unit_of(number: int, own: Settings, shape: tuple[int, int], frame: Frame | None = None) -> Unit:
    """One reference, as `units_of`, whether it has a part or not.

    Args:
        own: The settings as this reference has them (`Settings.unit`); it is there.
    """
    with _naming(number):
        return _opened(number, own, shape, frame)


@contextlib.contextmanager
def _naming(number: int) -> Iterator[None]:
    """What is wrong says of which reference, where it is not the first."""
    try:
        yield
    except ZvlError as error:
        raise (ZvlError(f"Reference {number}: {untitled(str(error))}") if number > 1 else error) from None


def _opened(number: int, own: Settings, shape: tuple[int, int], frame: Frame | None) -> Unit:
    pictures = {
        numbered(option.name, number): (open_mask if option.kind == "mask" else open_reference)(given)
        for option in UNIT_OPTIONS
        if option.kind in ("image", "mask") and (given := getattr(own, option.name)) is not None
    }
    reference, over, within = (
        pictures.get(numbered(name, number)) for name in ("reference", "reference_mask", "region_mask")
    )
    if reference is None:
        raise ValueError(f"reference {number} is not there")
    mask = None if over is None else framed_mask(over, reference, own.crop, shape)
    if mask is not None and not bool((mask > 0).any()):
        raise ZvlError("The reference mask has nothing of the reference in it. Paint some of it white.")
    region = region_of(own.region, None if within is None else mask_of(within), frame)
    return Unit(own, framed(reference, own.crop, shape), region, mask, number, pictures)


def parts_of(units: list[Unit]) -> tuple[Part, ...]:
    """What is known of units before anything is read: their weights and their regions, in the order of their marks."""
    return tuple(Part(unit.weighting, region=unit.region) for unit in units)


def units_weigh(units: list[Unit]) -> bool:
    """Whether any of them wants something of the image model besides rows, as `weighs`."""
    return any(
        weighs(unit.settings, unit.profile) or (unit.region is not None and inserts(unit.settings)) for unit in units
    )


def digests(units: list[Unit]) -> dict[str, str]:
    """The digests of all files that units were made of, by the names of their options."""
    digests = {name: picture.digest for unit in units for name, picture in unit.pictures.items()}
    for unit in units:
        learned = {"profile": unit.weighting.profile, "projection": unit.projection}
        digests |= {name: each.digest for name, each in learned.items() if each is not None}
    return digests


def condition_all(
    settings: Settings, reference: Reference, texts: list[Text], sources: Sources
) -> list[Callable[[int], Conditioning]]:
    """As `condition`, for several prompts, all read at once: for each a function from a picture's seed to its
    conditioning."""
    units = [] if plain_picture(settings) else [Unit(settings, reference)]
    return condition_units(units, texts, sources)


def condition_units(
    units: list[Unit], texts: list[Text], sources: Sources, negative: bool = False
) -> list[Callable[[int], Conditioning]]:
    """As `condition_all`, for several references. Each alone, another weight, region or order of theirs reads nothing
    again; in turn, another order does.

    Args:
        units: All references of the picture, for both halves alike: marks name them by their place.
        negative: Whether the prompts are negative ones, for the unconditional half of guidance: there the negative
            references act, and only there.
    """

    def plain(text: Text, seed: int) -> Conditioning:
        return Conditioning(text.embeddings)

    acting = [unit for unit in units if unit.settings.negative == negative]
    if not acting:
        return [functools.partial(plain, text) for text in texts]
    for text in texts:
        _check_width(acting[0], text.embeddings.shape[-1], sources)
    statistics = sources.statistics() if needs_statistics(acting[0].settings) else None
    extracted = [_fewer(unit, rows) for unit, rows in zip(acting, _read(acting, texts, sources))]

    def made(text: Text, rows: tuple[Rows, ...], seed: int) -> Conditioning:
        base, read = text.embeddings.float(), iter(rows)
        parts = tuple(
            _part_of(unit, base, next(read), statistics, seed) if unit.settings.negative == negative else nothing
            for unit, nothing in zip(units, parts_of(units))
        )
        place = _place(acting[0].settings, rows[0].head, len(base), sources.model)
        conditioning = joined(base, parts, place, text.embeddings.dtype)
        if not text.read:  # none of its rows are in what is given at any step
            conditioning = dataclasses.replace(conditioning, plain=None, text_read=False)
        return _finite(conditioning, text.embeddings)

    return [functools.partial(made, text, rows) for text, rows in zip(texts, zip(*extracted))]


def _check_width(unit: Unit, width: int, sources: Sources) -> None:
    """Raise ZvlError unless what is read for a unit comes out as wide as the text embeddings."""
    if unit.projection is None:
        sources.extractor.checkpoint.require_width(sources.model.hidden(width))
    else:
        check_layer(unit.settings, sources, unit.projection)
        unit.projection.check_width(width)


def _place(settings: Settings, head: int, rows: int, model: ImageModel) -> int:
    """Before which of the prompt's rows the references' blocks stand."""
    return rows if settings.block_place == "front" and model.block_behind else BLOCK_PLACES[settings.block_place](head)


def _read(units: list[Unit], texts: list[Text], sources: Sources) -> list[list[Rows]]:
    """What references that act together give, as their settings combine them: for each a list, as `extract_all`."""
    if len(units) > 1 and units[0].settings.combine == "in turn":
        return extract_in_turn(units, texts, sources)
    return [extract_all(unit.settings, unit.reference, texts, sources, len(units), unit.projection) for unit in units]


def _part_of(unit: Unit, base: torch.Tensor, rows: Rows, statistics: ReferenceStatistics | None, seed: int) -> Part:
    fewer = _dropped(unit.settings, rows, seed)
    return dataclasses.replace(part(unit.settings, base, fewer, statistics, unit.profile), region=unit.region)


def _counted(settings: Settings) -> bool:
    """Whether rows that are left count for those that are gone."""
    return inserts(settings) and settings.proportional


def _fewer(unit: Unit, extracted: list[Rows]) -> list[Rows]:
    """With neighbours merged, where rows are inserted, and without those outside the reference's mask."""
    settings = unit.settings
    if inserts(settings):
        extracted = [merge_image_rows(rows, settings.merge, _counted(settings)) for rows in extracted]
    if unit.mask is not None and TOKEN_MODES[settings.token_mode].image:
        extracted = [keep_masked_image_rows(rows, unit.mask) for rows in extracted]
    return extracted


def _dropped(settings: Settings, rows: Rows, seed: int) -> Rows:
    return drop_image_rows(rows, dropped(settings, int(rows.image.sum())), seed, _counted(settings))
