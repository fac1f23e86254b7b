"""Z-Image VL in one generation: the hook on the host's `p`.

Nothing here outlives `p`, and nothing of the host is replaced: the instance gets its own `cached_params` and
`get_conds_with_caching`, which call what was there before. Both names are the same in every version of the host seen.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from .. import beginning, conditioner, effects
from ..alone import makes_alone
from ..engines import ENGINES
from ..engines.sources import Sources
from ..engines.splice import look
from ..errors import Stopped, ZvlError, in_one_line, line_of
from ..hidden_layers import LAYER_OPTIONS
from ..hosts import forge, forge_encoder, forge_files, forge_inpaint
from ..hosts.forge_extractor import ForgeExtractor
from ..mixing.statistics import ReferenceStatistics
from ..options import BY_NAME, OPTIONS, Settings
from ..regions import Frame
from ..sequence import TOKEN_MODES
from . import batch, infotext, sampling
from .cell import cell_of
from .engine import Player, Recorder, joined, statistics_of, told_again, with_prompts
from .kept import KEEPER
from .request import asked, parse
from .said import tell

_HOOKS = ("cached_params", "get_conds_with_caching")
_RUN = "zvl_run"  # on p: the run that is attached
_OF_NO_ROWS = ("enabled", "preset", "denoising_strength")  # what the conditioning does not depend on


def attach(p: Any, args: tuple | list) -> None:
    """Prepare one generation. Called for every `process`, so copies of `p` (grids, loops) get hooks of their own.

    Never raises: the host would swallow it and make the picture without the reference. What is wrong is raised later,
    in the conditioning step, where it stops the run.
    """
    if _RUN in p.__dict__ and current(p) is None:
        # A copy of a generation that goes on, as ADetailer makes them: what that one has written stays its own.
        p.extra_generation_params = dict(p.extra_generation_params)
    wrapped = detach(p)
    infotext.clear(p.extra_generation_params)
    run = Run(p)
    try:
        run.prepare(args)
    except Exception as error:  # noqa: BLE001  whatever it is, it has to stop the run
        run.error = error
    if run.acts or wrapped:  # where nothing is to be done, a run that does nothing silences the older one
        run.install()


def current(p: Any) -> Run | None:
    """The run that is attached to a generation, where it is this generation's own."""
    run = p.__dict__.get(_RUN)
    return run if run is not None and run.p is p else None


def check(p: Any, args: tuple | list, cell: dict[str, Any]) -> None:
    """Raise ZvlError where the chosen models can't do what a generation is about to ask, before it is begun.

    Args:
        cell: Values of the X/Y/Z plot, by name.
    """
    chosen = parse(args, cell)
    if not chosen.enabled:
        return
    chosen = chosen.each()[0]
    if units := conditioner.units_of(chosen, _shape(p), forge_inpaint.frame_to_come(p)):
        run = Run(p)
        run.settings, run.units = chosen, units
        run.check(forge.current_engine(), None)


def _shape(p: Any) -> tuple[int, int]:
    """The picture's width and height."""
    return int(getattr(p, "width", 0) or 1), int(getattr(p, "height", 0) or 1)


def detach(p: Any) -> bool:
    """Take the hooks off `p`; a copy of another `p` brings that one's along.

    Returns:
        Whether an earlier run is still there, wrapped by another extension's hooks.
    """
    earlier = p.__dict__.pop(_RUN, None)
    wrapped = False
    for name in _HOOKS:
        if getattr(p.__dict__.get(name), "__self__", None) is not earlier:
            wrapped = True
        elif earlier is not None:
            del p.__dict__[name]
            if name in earlier.before:
                p.__dict__[name] = earlier.before[name]
    return wrapped and earlier is not None


# The run whose hook is being called. Only the newest acts: an older one of the same or a copied `p`, wrapped by another
# extension's hook, is reached from inside it.
_CURRENT: ContextVar[Run | None] = ContextVar("zvl_run", default=None)


def _is_negative(prompts: Any) -> bool:
    return bool(getattr(prompts, "is_negative_prompt", False))


class Run:
    """One generation's settings and hooks.

    Attributes:
        settings: None where the extension takes no part.
        units: The references that have one.
        error: What is wrong with the request; raised in the conditioning step.
        before: Hooks that were on `p` already.
    """

    def __init__(self, p: Any):
        self.p = p
        self.settings: Settings | None = None
        self.units: list[conditioner.Unit] = []
        self._each: list[Settings] = []  # of the references of a batch, or of the only picture
        self._batch: tuple | None = None
        self._digests: list[str] = []  # of the batch
        self._turn: int | None = None  # whose units are made
        self._frame = Frame()
        self.error: Exception | None = None
        self.before: dict[str, Callable] = {}
        self._extractor: ForgeExtractor | None = None
        self._asked: Any = None  # the host's own key for the conditioning it is about to make
        self._stopped = False  # the user has ended this batch: it is made as without the extension
        self._sampling: sampling.Sampling | None = None
        self._hosts: BaseException | None = None  # what the host itself has raised

    @property
    def acts(self) -> bool:
        return self.settings is not None or self.error is not None

    def say(self, line: str) -> None:
        tell(self.p, line)

    def prepare(self, args: tuple | list) -> None:
        """Read the arguments; leaves `settings` None where there is nothing to do."""
        chosen = asked(self.p, args)
        if chosen is not None:
            self._each, self._batch = chosen.each(), chosen.reference_batch
            self.settings = self._each[0]

    def begin(self) -> None:
        """Make the units of the pictures that are about to be made, once the host has prepared the generation: only
        then it is known what is inpainted."""
        if self.settings is None or self.error is not None:
            return
        try:
            turn = 0 if self._batch is None else batch.turn(self.p)
            if turn != self._turn:
                self._take(turn)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it has to stop the run
            self.error = error

    def _take(self, turn: int) -> None:
        if batch.spreads(self.p) and self._turn is None:
            self._digests = batch.digests(self._batch)
            self.say(batch.line(self.p))
        self._turn, self.settings, self._frame = turn, self._each[turn], forge_inpaint.frame_of(self.p)
        self.units = conditioner.units_of(self.settings, _shape(self.p), self._frame)
        self._check_guidance()
        for picture in (each for unit in self.units for each in unit.pictures.values()):
            KEEPER.recent.put(picture.digest[: infotext.DIGEST], picture.image)
        self._sampling = self._begun()

    def _check_guidance(self) -> None:
        """Raise ZvlError where a negative reference has no half to act in."""
        scales = [getattr(self.p, "cfg_scale", 1.0)]
        if getattr(self.p, "enable_hr", False):
            scales.append(getattr(self.p, "hr_cfg", 1.0))
        if self._negative and all(scale == 1.0 for scale in scales):
            raise ZvlError(
                "A negative reference acts by guidance, and at CFG scale 1 there is none. Set CFG scale to 1.5 or "
                "more, or switch Negative reference off."
            )

    @property
    def _negative(self) -> bool:
        return any(unit.settings.negative for unit in self.units)

    def install(self) -> None:
        for name in _HOOKS:
            if name in self.p.__dict__:  # another extension's own hook on this p
                self.before[name] = self.p.__dict__[name]
            setattr(self.p, name, getattr(self, name))
        setattr(self.p, _RUN, self)

    def _original(self, name: str) -> Callable:
        return self.before.get(name) or getattr(type(self.p), name).__get__(self.p)

    @property
    def extractor(self) -> ForgeExtractor:
        """Made on first use: until then not even the headers of the weights are read."""
        if self._extractor is None:
            self._extractor = ForgeExtractor(
                forge_files.checkpoint(self.settings.model), self.settings, KEEPER.residence
            )
            if self._extractor.note:
                self.say(self._extractor.note)
        return self._extractor

    # The two hooks. Their names are the host's.

    def cached_params(self, required_prompts: Any, *args: Any, **kwargs: Any) -> tuple:
        """The host's key for its conditioning cache, with everything added that decides what the reference does.

        A longer tuple never equals the host's own, so on, off and on again all find what belongs to them.
        """
        with self._current() as newest:
            self._asked = key = self._original("cached_params")(required_prompts, *args, **kwargs)
            if not newest or self._stopped or self.settings is None or not self._applies(required_prompts):
                return key
            with self._in_one_line():
                return (*key, ("zvl", *self._key(required_prompts)))

    def _key(self, prompts: Any) -> tuple:
        """Everything that decides what the reference does to these prompts."""
        s = self.settings
        values = tuple(
            getattr(s, option.name)
            for option in OPTIONS
            if option.kind not in ("image", "images", "mask", "model") and option.name not in _OF_NO_ROWS
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
        return pictures, _shape(self.p), frame, values, identity, seeds

    def get_conds_with_caching(self, function: Callable, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's conditioning step. What is raised here ends the run."""
        with self._current() as newest:
            original = self._original("get_conds_with_caching")
            if not newest or not self.acts:
                return original(function, required_prompts, *args, **kwargs)
            try:
                return self._conds(original, function, required_prompts, *args, **kwargs)
            except Stopped:  # sampling will end at once: it is given what costs least, under the host's own key
                self._stopped = True
                return original(function, required_prompts, *args, **kwargs)
            except ZvlError as error:
                raise forge.refusal(line_of(error), forge.is_api(self.p)) from None

    def _in_one_line(self) -> Any:
        return in_one_line(lambda error: error is self._hosts)

    @contextlib.contextmanager
    def _current(self) -> Iterator[bool]:
        """Make this the run that acts, unless a newer one is already acting; says which."""
        if _CURRENT.get() not in (None, self):
            yield False
            return
        token = _CURRENT.set(self)
        try:
            yield True
        finally:
            _CURRENT.reset(token)

    def _conds(self, original: Callable, function: Callable, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
        self.begin()
        if self.error is not None:
            with self._in_one_line():
                raise self.error
        if not self._applies(required_prompts):
            if not forge.is_zimage(forge.current_engine()):
                self.say("this checkpoint is not Z-Image, so the reference has no part in the picture.")
            return original(function, required_prompts, *args, **kwargs)
        if forge.interrupted():
            raise Stopped

        self._asked, made = None, []

        def conditioned(engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
            with self._in_one_line():
                made.append(self._conditioned(function, engine, prompts, *rest, **more))
            return made[-1]

        result = original(conditioned, required_prompts, *args, **kwargs)
        if not made:  # from the host's cache: another picture may have set another shift since
            self._recorded(function, forge.current_engine(), self._alone(required_prompts))
        written = infotext.write(self.settings, conditioner.digests(self.units), self.extractor.checkpoint.name)
        if self._digests:
            key = BY_NAME["reference"].infotext
            written[key] = batch.OfEach(written[key], self._digests[0][: infotext.DIGEST])
        self.p.extra_generation_params.update(written)
        for line in effects.unheard(self.settings):
            self.say(line)
        return result

    def _applies(self, prompts: Any) -> bool:
        """Negative prompts stay plain text without a negative reference, and other prompts without another one;
        another architecture stays as it is."""
        return self._acting(prompts) and forge.is_zimage(forge.current_engine())

    def _acting(self, prompts: Any) -> bool:
        return any(unit.settings.negative == _is_negative(prompts) for unit in self.units)

    def _conditioned(self, function: Callable, engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        """Call the host's function twice: once to learn what texts it encodes, once to give it the conditioning.

        Each model is placed on the device once, however many prompts a batch has: the vision tower alone (engine
        splice) before the text encoder, which splice needs again after it, and Qwen3-VL (engine blend) after the text
        encoder has read everything.
        """
        KEEPER.limit()
        sources = self.check(engine, prompts)
        texts, stacked = self._texts(function, engine, prompts, sources, *rest, **more)
        negative = _is_negative(prompts)
        made = dict(zip(texts, conditioner.condition_units(self.units, list(texts.values()), sources, negative)))

        def player(seed: int) -> Player:
            return Player(engine, functools.cache(lambda prompt: made[prompt](seed)), stacked)

        if not self._per_picture:
            return function(player(0), prompts, *rest, **more)
        # The host encodes a prompt once per batch, whatever the pictures' seeds: so every picture gets a call of its
        # own.
        pictures = zip(prompts, self._seeds(prompts))
        return joined(
            [function(player(seed), with_prompts(prompts, [prompt]), *rest, **more) for prompt, seed in pictures]
        )

    def check(self, engine: Any, prompts: Any) -> Sources:
        """What the conditioning draws on, once it is known that it has what the settings ask for.

        Raises:
            ZvlError: it has not.
        """
        s, loaded = self.settings, forge.is_zimage(engine)
        language_model = ENGINES[s.engine].language_model
        sources = Sources(
            self.extractor,
            forge_encoder.encoder(engine) if loaded else None,
            lambda: self._statistics(engine, prompts),
            forge_encoder.ForgeTextEncoder(engine) if loaded and not language_model else None,
            KEEPER.store,
            self.say,
            not LAYER_OPTIONS.isdisjoint(cell_of(self.p)),
        )
        if loaded or language_model:
            conditioner.check_layer(s, sources)
        if loaded and conditioner.units_weigh(self.units):
            sampling.check(engine, self.units)
        return sources

    def _texts(
        self, function: Callable, engine: Any, prompts: Any, sources: Sources, *rest: Any, **more: Any
    ) -> tuple[dict, bool]:
        """What the host makes of the prompts (as `Recorder`), from an earlier picture where it asked for the same.

        In a grid over alpha the host's own cache can't help, because every cell's conditioning is another: without
        this, each cell would load the text encoder again.
        """
        alone = self._alone(prompts)
        if known := self._recorded(function, engine, alone):
            return known
        if not ENGINES[self.settings.engine].language_model:  # before the text encoder, which is needed after it, too
            tokens = self.settings.reference_tokens
            for unit in self.units:
                look(unit.reference, self.extractor.checkpoint.grid(unit.reference, tokens), tokens, sources)
        recorder = Recorder(engine, read=not alone)
        with forge_encoder.told(engine) as told:
            try:
                function(recorder, prompts, *rest, **more)
            except ZvlError:
                raise
            except BaseException as error:
                self._hosts = error
                raise
        if self._keeps:
            key = self._key_of(function, engine, read=not alone)
            KEEPER.recordings(engine).append((key, recorder.texts, recorder.stacked, told))
        return recorder.texts, recorder.stacked

    def _recorded(self, function: Callable, engine: Any, alone: bool) -> tuple[dict, bool] | None:
        """What `_texts` gave when the host asked for the same before."""
        for read in (True, False) if alone and self._keeps else (True,) if self._keeps else ():
            if known := told_again(engine, self._key_of(function, engine, read)):
                return known
        return None

    def _key_of(self, function: Callable, engine: Any, read: bool) -> tuple:
        """What a recording is kept under.

        Args:
            read: Whether the text encoder has read what was asked.
        """
        return function, self._asked, forge_encoder.text_state(engine), read

    def _alone(self, prompts: Any) -> bool:
        """Whether Qwen3-VL alone makes these prompts' conditioning: the text encoder need not read them."""
        negative = _is_negative(prompts)
        return makes_alone(unit.settings for unit in self.units if unit.settings.negative == negative)

    @property
    def _keeps(self) -> bool:
        return self._asked is not None and forge.setting("persistent_cond_cache", True)

    @property
    def _per_picture(self) -> bool:
        """Whether the pictures of a batch differ in their conditioning by their seeds."""
        return any(u.settings.image_dropout > 0 for u in self.units) and TOKEN_MODES[self.settings.token_mode].image

    def _seeds(self, prompts: Any) -> list[int]:
        seeds = [int(seed) for seed in getattr(self.p, "seeds", None) or []]
        return seeds if len(seeds) == len(prompts) else list(range(len(prompts)))

    # The sampling, as the host calls it.

    def _begun(self) -> sampling.Sampling:
        """The sampling of the next batch."""
        return sampling.Sampling(self.p, self.units, beginning.beginning_of(self.settings, self.units))

    def before_sampling(self) -> None:
        engine = forge.current_engine()
        if self._sampling is not None and not self._stopped and forge.is_zimage(engine):
            self._sampling.begin(engine)

    def during_sampling(self, engine: Any) -> None:
        if self._sampling is not None and not self._stopped and forge.is_zimage(engine):
            self._sampling.step(engine)

    def after_sampling(self) -> None:
        if self._sampling is not None:
            self._sampling.end()
            self._sampling, self._stopped = self._begun(), False

    def after_all(self) -> None:
        batch.narrow(self.p)

    def _statistics(self, engine: Any, prompts: Any) -> ReferenceStatistics:
        state = forge_encoder.text_state(engine)
        return KEEPER.statistics(engine, state, lambda: statistics_of(engine, prompts))
