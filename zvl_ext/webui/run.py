"""Z-Image VL in one generation: the hook on the host's `p`.

Nothing here outlives `p`, and nothing of the host is replaced: the instance gets its own `cached_params` and
`get_conds_with_caching`, which call what was there before. Both names are the same in every version of the host seen.
What the conditionings are made with is in `making_references` and `making_file`; here is when.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from .. import conditioner
from ..declaration import LEARNED
from ..errors import Stopped, ZvlError, in_one_line, line_of, untitled
from ..hosts import forge, forge_inpaint
from ..image_models import NAMES
from ..options import BY_NAME, Settings
from ..regions import Frame
from . import batch, infotext, sampling
from .conditionings import free_name, save_made
from .kept import KEEPER, Made
from .making import Making, is_negative
from .making_file import FromFile, weighed
from .making_references import FromReferences, shape_of
from .named_files import NAMED_FILES
from .request import asked, cell_in, check_together, parse, to_save
from .said import tell

_HOOKS = ("cached_params", "get_conds_with_caching")
_RUN = "zvl_run"  # on p: the run that is attached


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
    check_together(chosen)
    if making := making_of(p, chosen.each()[0], args, cell, forge_inpaint.frame_to_come(p)):
        making.check(forge.current_engine())


def making_of(p: Any, chosen: Settings, args: tuple | list, cell: dict[str, Any], frame: Frame) -> Making | None:
    """What makes the conditionings of a generation with these settings; None where nothing has a part in the picture.

    Raises:
        ZvlError: what is chosen can't be opened, or does not go together.
    """
    if chosen.conditioning:
        saved, lines = weighed(chosen, args, cell)
        return None if saved.idle else FromFile(p, chosen, saved, lines)
    learned = {kind: NAMED_FILES[kind].opened(name) for kind in LEARNED if (name := getattr(chosen, kind))}
    units = conditioner.units_of(chosen, shape_of(p), frame, **learned)
    return FromReferences(p, chosen, units, frame) if units else None


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


class Run:
    """One generation's settings and hooks.

    Attributes:
        settings: None where the extension takes no part.
        making: What makes the conditionings; None until the run has begun, and where nothing has a part in the picture.
        error: What is wrong with the request; raised in the conditioning step.
        before: Hooks that were on `p` already.
    """

    def __init__(self, p: Any):
        self.p = p
        self.settings: Settings | None = None
        self.making: Making | None = None
        self.error: Exception | None = None
        self.before: dict[str, Callable] = {}
        self._args: tuple | list = ()
        self._each: list[Settings] = []  # of the references of a batch, or of the only picture
        self._batch: tuple | None = None
        self._digests: list[str] = []  # of the batch
        self._turn: int | None = None  # for whose pictures `making` is
        self._stopped = False  # the user has ended this batch: it is made as without the extension
        self._sampling: sampling.Sampling | None = None
        self._made: Made | None = None  # what the first picture is conditioned on
        self._save_as = ""  # the name of the file that a request wants of it

    @property
    def acts(self) -> bool:
        return self.settings is not None or self.error is not None

    @property
    def units(self) -> list[conditioner.Unit]:
        """The references that have a part in the picture and are read for it."""
        return [] if self.making is None else self.making.units

    def say(self, line: str) -> None:
        tell(self.p, line)

    def prepare(self, args: tuple | list) -> None:
        """Read the arguments; leaves `settings` None where there is nothing to do."""
        self._args, wanted = args, to_save(args)
        chosen = asked(self.p, args)
        if wanted and forge.enclosing(self.p) is None:  # a pass within a picture has the picture's own arguments
            self._save_as = free_name(wanted)
        if chosen is None:
            self._keep(None)
        else:
            check_together(chosen)
            self._each, self._batch = chosen.each(), chosen.reference_batch
            self.settings = self._each[0]

    def begin(self) -> None:
        """Make what makes the conditionings of the pictures that are about to be made, once the host has prepared the
        generation: only then it is known what is inpainted."""
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
        self._turn, self.settings, self._made = turn, self._each[turn], None
        frame = forge_inpaint.frame_of(self.p)
        self.making = making_of(self.p, self.settings, self._args, cell_in(self.p), frame)
        if self.making is None:
            self.say("the picture is as without the conditioning file, which has no part in it with these weights.")
            self._keep(None)
        else:
            self.making.whole = bool(self._save_as)
            self.making.watched = sampling.WATCHED in self.p.__dict__
            self.making.begin()
            self._sampling = self._sampled()

    def _sampled(self) -> sampling.Sampling:
        """The sampling of the next batch."""
        return sampling.Sampling(self.p, self.making.parts, self.making.weighs, self.making.beginning)

    def install(self) -> None:
        for name in _HOOKS:
            if name in self.p.__dict__:  # another extension's own hook on this p
                self.before[name] = self.p.__dict__[name]
            setattr(self.p, name, getattr(self, name))
        setattr(self.p, _RUN, self)

    def _original(self, name: str) -> Callable:
        return self.before.get(name) or getattr(type(self.p), name).__get__(self.p)

    # The two hooks. Their names are the host's.

    def cached_params(self, required_prompts: Any, *args: Any, **kwargs: Any) -> tuple:
        """The host's key for its conditioning cache, with everything added that decides what the reference does.

        A longer tuple never equals the host's own, so on, off and on again all find what belongs to them.
        """
        with self._current() as newest:
            key = self._original("cached_params")(required_prompts, *args, **kwargs)
            if self.making is not None:
                self.making.asked = key
            if not newest or self._stopped or not self._applies(required_prompts):
                return key
            with self._in_one_line():
                return (*key, ("zvl", *self._key(required_prompts)))

    def _key(self, prompts: Any) -> tuple:
        """Everything that decides what these prompts get. What was forgotten is not found in the host's cache either:
        nobody would know any more what it was made of."""
        return KEEPER.forgotten, self.making.watched, *self.making.key(prompts)

    def get_conds_with_caching(self, function: Callable, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
        """The host's conditioning step. What is raised here ends the run."""
        with self._current() as newest:
            original = self._original("get_conds_with_caching")
            if not newest or not self.acts or self._stopped:
                return original(function, required_prompts, *args, **kwargs)
            try:
                return self._conds(original, function, required_prompts, *args, **kwargs)
            except Stopped:  # sampling will end at once: it is given what costs least, under the host's own key
                self._stopped = True
                return original(function, required_prompts, *args, **kwargs)
            except ZvlError as error:
                raise forge.refusal(line_of(error), forge.is_api(self.p)) from None

    def _in_one_line(self) -> Any:
        return in_one_line(lambda error: self.making is not None and error is self.making.hosts)

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
            if forge.image_model(forge.current_engine()) is None:
                self.say(f"this checkpoint is not {NAMES}, so the reference has no part in the picture.")
            return original(function, required_prompts, *args, **kwargs)
        if forge.interrupted():
            raise Stopped

        making, made = self.making, []
        making.asked = None

        def conditioned(engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
            with self._in_one_line():
                KEEPER.limit()
                made.append(making.conditioned(function, engine, prompts, *rest, **more))
            return made[-1]

        result = original(conditioned, required_prompts, *args, **kwargs)
        if not made:  # from the host's cache: another picture may have set another shift since
            making.recorded(function, forge.current_engine(), required_prompts)
        if not is_negative(required_prompts):  # of every batch: a later generation may find it in the host's cache
            key = making.asked, self._key(required_prompts)
            kept = KEEPER.remembered(key, making.made if made else None)
            self._made = self._made or kept
        written = making.entries()
        if self._digests:
            key = BY_NAME["reference"].infotext
            written[key] = batch.OfEach(written[key], self._digests[0][: infotext.DIGEST])
        self.p.extra_generation_params.update(written)
        for line in making.lines(required_prompts):
            self.say(line)
        return result

    def _applies(self, prompts: Any) -> bool:
        """Another architecture stays as it is."""
        acts = self.making is not None and self.making.acts_on(prompts)
        return acts and forge.image_model(forge.current_engine()) is not None

    # The sampling, as the host calls it.

    def before_sampling(self) -> None:
        engine = forge.current_engine()
        if self._sampling is not None and not self._stopped and forge.image_model(engine):
            self._sampling.begin(engine)

    def during_sampling(self, engine: Any) -> None:
        if self._sampling is not None and not self._stopped and forge.image_model(engine):
            self._sampling.step(engine)

    def after_sampling(self) -> None:
        self._stopped = False
        if self._sampling is None:
            return
        if self._sampling.end():
            self._keep(self._made or self.making.made)
        self._sampling = self._sampled()

    def after_all(self) -> None:
        batch.narrow(self.p)

    def _keep(self, made: Made | None) -> None:
        """A picture is made: what it is conditioned on can be saved, and is, under the name that a request gives."""
        if forge.enclosing(self.p) is not None:
            return
        KEEPER.last, name, self._save_as = made, self._save_as, ""
        if name:
            try:
                self.say(f"the conditioning was saved as {save_made(made, name)}.")
            except ZvlError as error:
                self.say(f"no conditioning was saved. {untitled(str(error))}")
