"""What outlives a picture in the web UI; one object, `KEEPER`, has it all and is asked for it.

Loads nothing heavy: the panel is built with it.
"""

from __future__ import annotations

import collections
import functools
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..store import Disk, Store, data_folder
from . import settings
from .references import ReferenceFolder

if TYPE_CHECKING:
    from ..conditioning import Conditioning
    from ..conditioning_file import About
    from ..hosts.forge_memory import Residence
    from ..mixing.statistics import ReferenceStatistics

RECORDINGS = 8  # of each engine
_STATES = 8  # of what is measured of each engine
_MADE = 4  # conditionings, at least as many as the web UI itself remembers
_RECENT = 128 * 2**20  # bytes of references


@dataclass(frozen=True)
class Made:
    """What a picture was conditioned on, for a file.

    Attributes:
        conditioning: Of the first picture of the batch; None where one file can't hold it.
        why: Why not, as a line.
    """

    conditioning: Conditioning | None
    about: About | None = None
    why: str = ""


class Keeper:
    """The process' memory.

    Attributes:
        store: What the models made of references and prompts.
        disk: The same, where the user wants it to survive a restart.
        recent: References by the first digits of their digest, for pasting their parameters.
        references: The same on disk, as many as the user's setting allows.
        made: What the last pictures were conditioned on, each with the web UI's own key and ours.
        last: What the last picture that was finished was conditioned on; None where no reference had a part in it.
        forgotten: How often all of it was dropped.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.disk = Disk(data_folder(), 0)
        folder = os.path.join(os.path.dirname(data_folder()), "references")
        self.references = ReferenceFolder(folder, settings.references_limit)
        self.recent = Store(_RECENT, size=lambda image: 3 * image.width * image.height, disk=self.references)
        self.made: collections.deque[tuple[tuple, Made]] = collections.deque(maxlen=_MADE)
        self.last: Made | None = None
        self.forgotten = 0
        # By engine, and gone with it.
        self._measured: weakref.WeakKeyDictionary[Any, collections.OrderedDict] = weakref.WeakKeyDictionary()
        self.recorded: weakref.WeakKeyDictionary[Any, collections.deque] = weakref.WeakKeyDictionary()

    @functools.cached_property
    def residence(self) -> Residence:
        """Where Qwen3-VL is held between pictures. It meets the host's memory management, which is not there
        everywhere."""
        from ..hosts.forge_memory import Residence

        return Residence()

    def limit(self) -> None:
        """Keep to the user's settings, which may have changed."""
        self.disk.limit = settings.disk_limit()
        self.store.disk = self.disk if self.disk.limit else None
        self.store.resize(settings.memory_limit())

    def recordings(self, engine: Any) -> collections.deque:
        """The last things an engine made of prompts, oldest first; what is put in pushes the oldest out."""
        return self.recorded.setdefault(engine, collections.deque(maxlen=RECORDINGS))

    def statistics(self, engine: Any, state: str, measured: Callable[[], ReferenceStatistics]) -> ReferenceStatistics:
        """The reference statistics of an engine's text encoder, measured when they are asked for the first time.

        Args:
            state: Of the text encoder: with another LoRA in it, it is another one, and is measured anew.
        """
        return self.measured(engine, ("taken", state), measured)

    def measured(self, engine: Any, key: tuple[str, str], measured: Callable[[], Any]) -> Any:
        """Something that was measured of an engine's text encoder, by what it is and the text encoder's state; of a few
        states, so that a LoRA that is taken out and put in again is not measured anew."""
        kept = self._measured.setdefault(engine, collections.OrderedDict())
        if key not in kept:
            kept[key] = measured()
        kept.move_to_end(key)
        while len(kept) > _STATES:
            kept.popitem(last=False)
        return kept[key]

    def remembered(self, key: tuple, made: Made | None) -> Made | None:
        """What a picture was conditioned on, kept under its key; where it is not new (None), as it was kept."""
        if made is not None:
            self.made.append((key, made))
            return made
        return next((kept for known, kept in self.made if known == key), None)

    def forget(self) -> int:
        """Drop what is kept of references and prompts, in memory and on disk; the bytes that it took."""
        freed = self.store.size + self.disk.size + self.recent.size + self.references.size
        self.store.clear()
        self.recent.clear()
        self.recorded.clear()
        self.made.clear()
        self.last = None
        self.forgotten += 1
        self.disk.clear()  # switched off or not: it may have been on
        return freed


KEEPER = Keeper()
