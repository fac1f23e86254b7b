"""What makes the conditionings of one generation in the web UI: references (`making_references`) or a file
(`making_file`). Here is what both have in common.

It knows the web UI's engine and what its conditioning functions are called with; when they are called is `run`'s.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from .. import conditioner
from ..beginning import Beginning
from ..conditioning import Conditioning, Part, moved
from ..conditioning_file import About
from ..engines.sources import Text
from ..errors import ZvlError
from ..hosts import forge, forge_encoder
from ..options import Settings
from .engine import Recorder, noted, told_again
from .kept import KEEPER, Made
from .said import tell


def is_negative(prompts: Any) -> bool:
    return bool(getattr(prompts, "is_negative_prompt", False))


class Making:
    """What makes one generation's conditionings.

    Attributes:
        settings: The generation's.
        asked: The host's own key for the conditioning that it is about to make; None where it has not asked.
        hosts: What the host itself has raised.
        made: What the first picture was conditioned on; None until it is known.
        units: The references that have a part in the picture and are read for it.
        whole: Whether the conditioning is wanted for a file, which also holds what has no part in the picture.
        watched: Whether the attention of its references is measured in sampling.
    """

    settings: Settings

    def __init__(self, p: Any, settings: Settings):
        self.p = p
        self.settings = settings
        self.asked: Any = None
        self.hosts: BaseException | None = None
        self.made: Made | None = None
        self.units: list[conditioner.Unit] = []
        self.whole = False
        self.watched = False

    # What one or the other way of making has.

    @property
    def parts(self) -> tuple[Part, ...]:
        """The references, for their weights while the picture is sampled; () where rows alone act."""
        raise NotImplementedError

    @property
    def weighs(self) -> bool:
        """Whether the image model has something to weigh."""
        raise NotImplementedError

    @property
    def beginning(self) -> Beginning | None:
        """What sampling begins from besides noise."""
        return None

    def alone(self, prompts: Any) -> bool:
        """Whether these prompts' conditioning is made without the text encoder: it need not read them."""
        raise NotImplementedError

    def acts_on(self, prompts: Any) -> bool:
        """Whether these prompts, or negative prompts, get another conditioning than the host's."""
        raise NotImplementedError

    def begin(self) -> None:
        """The generation is about to begin; raises ZvlError where it can't be as it is asked for."""

    def key(self, prompts: Any) -> tuple:
        """Everything that decides what these prompts get."""
        raise NotImplementedError

    def entries(self) -> dict[str, str]:
        """The picture's parameters."""
        raise NotImplementedError

    def lines(self, prompts: Any) -> list[str]:
        """What is to be said of a picture of these prompts."""
        raise NotImplementedError

    def check(self, engine: Any, prompts: Any = None) -> Any:
        """Raise ZvlError where the chosen models, or the file, can't do what is asked for."""
        raise NotImplementedError

    def conditioned(self, function: Callable, engine: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
        """The host's conditioning of prompts: its function is called once to learn what texts it encodes, and once to
        give it the conditioning."""
        raise NotImplementedError

    # What both do.

    def say(self, line: str) -> None:
        tell(self.p, line)

    def texts(
        self,
        function: Callable,
        engine: Any,
        prompts: Any,
        *rest: Any,
        before: Callable[[], None] = lambda: None,
        **more: Any,
    ) -> tuple[dict[str, Text], bool]:
        """What the host makes of the prompts (as `Recorder`), from an earlier picture where it asked for the same.

        In a grid over alpha the host's own cache can't help, because every cell's conditioning is another: without
        this, each cell would load the text encoder again.

        Args:
            before: What is to be done before the text encoder is loaded.
        """
        if known := self.recorded(function, engine, prompts):
            return known
        before()
        read = not self.alone(prompts)
        recorder = Recorder(engine, read)
        with forge_encoder.told(engine) as told:
            try:
                function(recorder, prompts, *rest, **more)
            except ZvlError:
                raise
            except BaseException as error:
                self.hosts = error
                raise
        if (model := forge.image_model(engine)) and model.edits:
            told.append(functools.partial(noted, engine, prompts))
        if self._keeps:
            key = self._key_of(function, engine, read)
            KEEPER.recordings(engine).append((key, recorder.texts, recorder.stacked, told))
        return recorder.texts, recorder.stacked

    def recorded(self, function: Callable, engine: Any, prompts: Any) -> tuple[dict[str, Text], bool] | None:
        """What `texts` gave when the host asked for the same before."""
        enough = (True, False) if self.alone(prompts) else (True,)
        for read in enough if self._keeps else ():
            if known := told_again(engine, self._key_of(function, engine, read)):
                return known
        return None

    def _key_of(self, function: Callable, engine: Any, read: bool) -> tuple:
        """What a recording is kept under.

        Args:
            read: Whether the text encoder has read what was asked.
        """
        return function, self.asked, forge_encoder.text_state(engine), read

    @property
    def _keeps(self) -> bool:
        return self.asked is not None and forge.setting("persistent_cond_cache", True)

    def remember(self, made: Conditioning, about: About) -> None:
        """Keep what the first of the pictures is conditioned on, for a file."""
        written = ", ".join(f"{name}: {value}" for name, value in self.entries().items())
        self.made = Made(moved(made, torch.device("cpu")), dataclasses.replace(about, infotext=written))
