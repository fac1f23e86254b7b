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
