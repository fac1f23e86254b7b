"""A crew's member that works in a process of its own, and comes again where that is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ..errors import ZvlError, line_of, untitled
from .crew import Failed, Unfit

_READY, _DONE, _REFUSED = "ready", "done", "refused"


class Process:
    """A process that does one job after another.

    Args:
        prepare: Called in the process with `arguments`, once; gives the function that does a job. A function of a
            module, as all that goes there and back.
    """

    def __init__(self, name: str, prepare: Callable[..., Callable[[Any], Any]], *arguments: Any):
        self.name = name
        self._prepare, self._arguments = prepare, arguments
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return None if self._process is None else self._process.pid

    def work(self, job: Any) -> Any:
        """Do a job, in the process; it is begun where there is none."""
        try:
            pipe = self._pipe or self._begin()
            pipe.send(job)
            what, result = pipe.recv()
        except (EOFError, OSError):
            raise Failed(f"its process was ended{_why(self._end())}") from None
        if what == _REFUSED:
            raise ZvlError(result)
        return result

    def _begin(self) -> Connection:
        if self._closed:
            raise EOFError
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._prepare, self._arguments), daemon=True, name=self.name
        )
        self._process.start()
        theirs.close()  # so that its end is noticed
        self._pipe = pipe
        what, line = pipe.recv()
        if what != _READY:
            raise Unfit(line)
        return pipe

    def _end(self) -> int | None:
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is None:
            return None
        _ended(process)
        return process.exitcode

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            _ended(self._process)


def _ended(process: Any) -> None:
    process.terminate()
    process.join(5)
    if process.is_alive():
        process.kill()
        process.join(5)


def _why(code: int | None) -> str:
    if code is None or code >= 0:
        return ""
    return " (killed, as a system without memory does)" if -code == signal.SIGKILL else f" (signal {-code})"


def _serve(pipe: Connection, prepare: Callable[..., Callable[[Any], Any]], arguments: tuple) -> None:
    """The process: jobs in, results out, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has the results
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # with all that is tidied up at an end
    try:
        work = prepare(*arguments)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - said where the results are waited for
        pipe.send((_REFUSED, _line(error)))
        return
    try:
        pipe.send((_READY, ""))
        while True:
            job = pipe.recv()
            try:
                result = _DONE, work(job)
            except SystemExit:
                raise
            except BaseException as error:  # noqa: BLE001 - likewise
                result = _REFUSED, _line(error)
            pipe.send(result)
    except (EOFError, OSError):
        return


def _line(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"{error}. Install it with: python -m pip install diffusers"
    if os.environ.get("ZVL_TRACEBACK") and not isinstance(error, ZvlError):
        traceback.print_exception(error)
    return untitled(line_of(error)).replace("The console says where.", "Set ZVL_TRACEBACK=1 to see where.")
