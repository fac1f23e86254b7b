"""References in one generation: what the prompts get is read from them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import conditioner, effects
from ..alone import makes_alone
from ..beginning import Beginning, beginning_of
from ..conditioning import Conditioning, Part
from ..conditioning_file import About
from ..declaration import FILES
from ..engines import ENGINES
from ..engines.sources import Sources, Text
from ..engines.splice import look
from ..errors import ZvlError
from ..hidden_layers import LAYER_OPTIONS
from ..hosts import forge, forge_encoder, forge_files
from ..hosts.forge_extractor import ForgeExtractor
from ..image_models import Z_IMAGE
from ..mixing.statistics import ReferenceStatistics
from ..options import OPTIONS, Settings
from ..regions import Frame
from ..sequence import TOKEN_MODES
from . import infotext, sampling
from .cell import cell_of
from .conditionings import first_text
from .engine import Player, joined, statistics_of, with_prompts
from .kept import KEEPER, Made
from .making import Making, is_negative

_OF_NO_ROWS = ("enabled", "preset", "denoising_strength")  # what the conditioning does not depend on
SEVERAL = (
    "There is nothing to save: the last picture's prompt has several parts (AND, or words that change on the way), and "
    "a conditioning file holds one."
)
AGAINST = (
    "A conditioning file holds what acts with the prompt; a negative reference acts with the negative one. Make a "
    "picture without it first."
)


def shape_of(p: Any) -> tuple[int, int]:
    """A picture's width and height."""
    return int(getattr(p, "width", 0) or 1), int(getattr(p, "height", 0) or 1)


class FromReferences(Making):
    """References are read, each with a Qwen3-VL.

    Args:
        units: The references that have a part in the picture.
        frame: Of the picture.
    """

    def __init__(self, p: Any, settings: Settings, units: list[conditioner.Unit], frame: Frame):
        super().__init__(p, settings)
        self.units = units
        self._frame = frame

    @property
    def parts(self) -> tuple[Part, ...]:
        return conditioner.parts_of(self.units)

    @property
    def weighs(self) -> bool:
        return conditioner.units_weigh(self.units)

    @property
    def beginning(self) -> Beginning | None:
        return beginning_of(self.settings, self.units)

    def acts_on(self, prompts: Any) -> bool:
        """Negative prompts stay plain text without a negative reference, and other prompts without another one."""
        return any(unit.settings.negative == is_negative(prompts) for unit in self.units)

    def alone(self, prompts: Any) -> bool:
        negative = is_negative(prompts)
        own = makes_alone(unit.settings for unit in self.units if unit.settings.negative == negative)
        return own and (negative or not self.whole)

    def begin(self) -> None:
        self._check_guidance()
        if self._against:
            self.made = Made(None, why=AGAINST)
        for picture in (each for unit in self.units for each in unit.pictures.values()):
            KEEPER.recent.put(picture.digest[: infotext.DIGEST], picture.image)

    def _check_guidance(self) -> None:
        """Raise ZvlError where a negative reference has no half to act in."""
        scales = [getattr(self.p, "cfg_scale", 1.0)]
        if getattr(self.p, "enable_hr", False):
            scales.append(getattr(self.p, "hr_cfg", 1.0))
        if self._against and all(scale == 1.0 for scale in scales):
            raise ZvlError(
                "A negative reference acts by guidance, and at CFG scale 1 there is none. Set CFG scale to 1.5 or "
                "more, or switch Negative reference off."
            )

    @property
    def _against(self) -> bool:
        return any(unit.settings.negative for unit in self.units)

    @functools.cached_property
    def extractor(self) -> ForgeExtractor:
        """Made on first use: until then not even the headers of the weights are read."""
        made = ForgeExtractor(forge_files.checkpoint(self.settings.model), self.settings, KEEPER.residence)
        if made.note:
            self.say(made.note)
        return made

    def key(self, prompts: Any) -> tuple:
        s = self.settings
        values = tuple(
            getattr(s, option.name) for option in OPTIONS if option.kind not in FILES and option.name not in _OF_NO_ROWS
        )
        identity = (
            self.extractor.checkpoint.identity,
            self.extractor.precision,
            str(getattr(forge.current_engine(), "filename", "")),
        )
        seeds = tuple(self._seeds(prompts)) if self._per_picture else ()
        pictures = tuple(sorted(conditioner.digests(self.units).items()))
        # A region follows what is inpainted.
        frame = self._frame.digest if any(unit.region is not None for unit in self.units) else ""
        return pictures, shape_of(self.p), frame, values, identity, seeds, self.alone(prompts)

    def entries(self) -> dict[str, str]:
        return infotext.write(self.settings, conditioner.digests(self.units), self.extractor.checkpoint.name)

    def lines(self, prompts: Any) -> list[str]:
        return [*effects.unheard(self.settings), *effects.about_profile(self.settings, self.units[0].profile)]

    def check(self, engine: Any, prompts: Any = None) -> Sources:
        """What the conditioning draws on, once it is known that it has what the settings ask for."""
        s, loaded = self.settings, forge.image_model(engine)
        language_model = ENGINES[s.engine].language_model
        sources = Sources(
            self.extractor,
            forge_encoder.encoder(engine, loaded) if loaded else None,
            lambda: self._statistics(engine, prompts),
            forge_encoder.ForgeTextEncoder(engine) if loaded and not language_model else None,
            KEEPER.store,
            self.say,
            not LAYER_OPTIONS.isdisjoint(cell_of(self.p)),
            loaded or Z_IMAGE,
        )
        if loaded or language_model:
            conditioner.check_layer(s, sources, self.units[0].projection)
        if loaded and self.weighs:
            sampling.check(engine, [unit.weighting for unit in self.units])
        return sources

    def conditioned(self, function: Callable, engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        """As `Making.conditioned`.

        Each model is placed on the device once, however many prompts a batch has: the vision tower alone (engine
        splice) before the text encoder, which splice needs again after it, and Qwen3-VL (engine blend) after the text
        encoder has read everything.
        """
        sources = self.check(engine, prompts)
        look_first = functools.partial(self._look, sources)
        texts, stacked = self.texts(function, engine, prompts, *rest, before=look_first, **more)
        negative = is_negative(prompts)
        made = dict(zip(texts, conditioner.condition_units(self.units, list(texts.values()), sources, negative)))
        seeds = self._seeds(prompts)
        if not negative:
            self._remember(prompts, texts, lambda prompt: made[prompt](seeds[0] if self._per_picture else 0))

        def player(seed: int) -> Player:
            return Player(engine, functools.cache(lambda prompt: made[prompt](seed)), stacked, self.watched)

        if not self._per_picture:
            return function(player(0), prompts, *rest, **more)
        # The host encodes a prompt once per batch, whatever the pictures' seeds: so every picture gets a call of its
        # own.
        return joined(
            [
                function(player(seed), with_prompts(prompts, [prompt]), *rest, **more)
                for prompt, seed in zip(prompts, seeds)
            ]
        )

    def _look(self, sources: Sources) -> None:
        """Engine splice: the vision tower before the text encoder, which is needed after it, too."""
        if not ENGINES[self.settings.engine].language_model:
            tokens = self.settings.reference_tokens
            for unit in self.units:
                look(unit.reference, self.extractor.checkpoint.grid(unit.reference, tokens), tokens, sources)

    def _remember(self, prompts: Any, texts: dict[str, Text], made: Callable[[str], Conditioning]) -> None:
        if self._against:
            return
        first = first_text(str(prompts[0]), texts)
        if first is None:
            self.made = Made(None, why=SEVERAL)
            return
        reader = f"{self.settings.engine}, {self.extractor.checkpoint.name}"
        self.remember(made(first), About(first, forge.model_name(forge.current_engine()), reader))

    @property
    def _per_picture(self) -> bool:
        """Whether the pictures of a batch differ in their conditioning by their seeds."""
        return any(u.settings.image_dropout > 0 for u in self.units) and TOKEN_MODES[self.settings.token_mode].image

    def _seeds(self, prompts: Any) -> list[int]:
        seeds = [int(seed) for seed in getattr(self.p, "seeds", None) or []]
        return seeds if len(seeds) == len(prompts) else list(range(len(prompts)))

    def _statistics(self, engine: Any, prompts: Any) -> ReferenceStatistics:
        state = forge_encoder.text_state(engine)
        return KEEPER.statistics(engine, state, lambda: statistics_of(engine, prompts))
