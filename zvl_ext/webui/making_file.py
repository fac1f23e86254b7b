"""A conditioning file in one generation: what the prompts get comes from it, and nothing is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import effects
from ..conditioning import Part, fitted
from ..conditioning_file import Saved
from ..declaration import numbered
from ..errors import ZvlError, shown
from ..hosts import forge
from ..options import OPTIONS, Settings, flat
from ..weighting import WEIGHTING
from . import infotext, sampling
from .engine import Player, with_prompts
from .making import Making, is_negative
from .named_files import NAMED_FILES
from .request import SAVE, named


def weighed(settings: Settings, args: tuple | list, cell: dict[str, Any]) -> tuple[Saved, list[str]]:
    """The chosen file with the weights that a generation names, and a line for each value that changes nothing.

    A file that is chosen by its name brings its own weights along, as a preset brings its values; those that are named
    beside it win. In the panel every control has a value: choosing a file there sets them.

    Args:
        settings: What the arguments and the cell come to.
        cell: Values of the X/Y/Z plot, by name.

    Raises:
        ZvlError: there is no such file, or it can't be used.
    """
    saved: Saved = NAMED_FILES["conditioning"].opened(settings.conditioning)
    if "conditioning" in cell:
        given = set(cell)
    elif named(args):
        given = {*flat(args[0]), *cell}
    else:
        own = {
            numbered(name, number): getattr(part.weighting, name)
            for number, part in enumerate(saved.conditioning.parts, 1)
            for name in WEIGHTING
        }
        given = {name for name, value in own.items() if getattr(settings, name) != value}
        given |= set(cell)
    given -= {"enabled", "conditioning", SAVE}
    saved, lines = saved.changed({o.name: getattr(settings, o.name) for o in OPTIONS if o.name in given})
    return saved, lines if named(args) else [*lines, *effects.unheard(settings)]


class FromFile(Making):
    """A conditioning file takes the prompt's place and that of all references."""

    def __init__(self, p: Any, settings: Settings, saved: Saved, lines: list[str]):
        super().__init__(p, settings)
        self.saved = saved
        self._lines = lines

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.saved.conditioning.parts

    @property
    def weighs(self) -> bool:
        return not self.saved.conditioning.steady

    def alone(self, prompts: Any) -> bool:
        return True

    def acts_on(self, prompts: Any) -> bool:
        return not is_negative(prompts)

    def key(self, prompts: Any) -> tuple:
        changes = tuple(sorted(self.saved.changes.items()))
        return self.saved.digest, changes, str(getattr(forge.current_engine(), "filename", ""))

    def entries(self) -> dict[str, str]:
        return infotext.of_file(self.saved.name, self.saved.digest, self.saved.weights)

    def lines(self, prompts: Any) -> list[str]:
        model = forge.model_name(forge.current_engine())
        return [*self._lines, *self.saved.told_prompt(map(str, prompts)), *self.saved.told_model(model)]

    def check(self, engine: Any, prompts: Any = None) -> None:
        if forge.image_model(engine) is None:
            return
        self.saved.check(hidden=forge.caption_width(engine))
        if self.weighs:
            sampling.check(engine, [part.weighting for part in self.parts])

    def conditioned(self, function: Callable, engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        """As `Making.conditioned`: the file's rows in the form of the host's own answer, for which nothing is read."""
        self.check(engine)
        texts, stacked = self.texts(function, engine, prompts, *rest, **more)
        rows = next(iter(texts.values())).embeddings
        self.saved.check(rows.shape[-1])
        made = fitted(self.saved.conditioning, rows)
        if not made.rows.isfinite().all():
            dtype = str(rows.dtype).removeprefix("torch.")
            raise ZvlError(f"{shown(self.saved.name)} has values that {dtype} does not hold. Save it again.")
        self.remember(self.saved.conditioning, self.saved.about)
        form = Player(engine, lambda prompt: made, stacked)
        # A prompt of several parts would be given it several times: the file takes the place of all of them.
        return function(form, with_prompts(prompts, [""] * len(prompts)), *rest, **more)
