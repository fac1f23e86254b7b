"""Work for crews' processes: what they do has to be importable there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from zvl_ext.errors import ZvlError


def prepare(what: str = "") -> Callable[[Any], Any]:
    if what == "unable":
        raise ZvlError("There are no weights.")
    return work


def work(job: Any) -> Any:
    what, value = job
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "die once":
        try:
            with open(value, "x"):
                os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    if what == "sleep":
        time.sleep(value)
    if what == "refuse":
        raise ZvlError("Z-Image VL: this can't be.")
    if what == "wrong":
        raise KeyError(value)
    return what, value, os.getpid()


class Here:
    """A member that works in this process, in `processes.Process`' place: what a test has changed is changed there."""

    def __init__(self, name: str, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any):
        self.name, self._prepare, self._arguments = name, prepare, arguments
        self._work: Callable[[Any], Any] | None = None

    def work(self, job: Any) -> Any:
        self._work = self._work or self._prepare(*self._arguments)
        return self._work(job)

    def close(self) -> None:
        pass
