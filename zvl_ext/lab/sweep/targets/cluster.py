"""The pipeline on a Dask cluster: one model on each worker, pictures where there is a GPU if any worker says so."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ....errors import ZvlError, line_of, untitled
from ....outside import plain, reason
from ...crew import Unfit
from . import Job, Made
from .pipeline import Spec, identity, prepare, spec_of

GPU = "GPU"  # the resource that Dask's documentation has workers with a GPU declare
_AHEAD = 3  # jobs for each thread of a worker, so that none waits for the network
_CONNECT = 10  # seconds
_FETCH = 60  # seconds for a picture that is made: a lost connection to its worker is tried anew after some six of them
_ALONE = 60.0  # seconds without any worker
_SHORT = 120.0  # seconds until a worker has told which weights it has

_models: dict[Spec, Callable[[Job], Made]] = {}  # of a worker's process
_opening = threading.Lock()


def make(spec: Spec, job: Job) -> Made:
    """On a worker: make a picture, with the model that it has or opens.

    Raises:
        ValueError: with one line, as plain text: what can be sent from any process to any other.
    """
    try:
        with _opening:
            if spec not in _models:
                _models.clear()
                _models[spec] = prepare(spec)
        return _models[spec](job)
    except Exception as error:  # noqa: BLE001 - a process elsewhere may lack its class
        raise ValueError(untitled(line_of(error))) from None


class Cluster:
    """A cluster that is there already.

    Args:
        address: Its scheduler's, or a `distributed.Client`.
    """

    def __init__(self, address: Any, spec: Spec, say: Callable[[str], None] = lambda line: None):
        self._spec, self._say = spec, say
        self._client = _connected(address) if isinstance(address, str) else address
        self._since = time.monotonic()
        self._futures: dict[Any, Future[Made]] = {}
        self._gpu = any(GPU in worker.get("resources", {}) for worker in self._workers())
        self.name = f"{spec.name}, on Dask"
        try:
            self.identity: str = self._client.submit(identity, spec, pure=False, **self._where).result(_SHORT)
        except Exception as error:
            self._client.close()
            raise ZvlError(_unable(error)) from error

    @property
    def _where(self) -> dict[str, Any]:
        return {"resources": {GPU: 1}} if self._gpu else {}

    def _workers(self) -> list[dict[str, Any]]:
        """Those that can make pictures."""
        limit = inspect.signature(self._client.scheduler_info).parameters.get("n_workers")  # some tell of five alone
        info = self._client.scheduler_info() if limit is None else self._client.scheduler_info(n_workers=-1)
        return list(info["workers"].values())

    @property
    def hands(self) -> int:
        """Also looks whether anybody is there to work."""
        workers = self._workers()
        able = [each for each in workers if not self._gpu or GPU in each.get("resources", {})]
        if able:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _ALONE:
            for future in list(self._futures.values()):
                if not future.done():
                    future.set_exception(Unfit("No Dask worker is left. Start some, and run this again to go on."))
        return max(1, sum(1 if self._gpu else each["nthreads"] for each in able))

    @property
    def width(self) -> int:
        return _AHEAD * self.hands

    def submit(self, job: Job) -> Future[Made]:
        """Have a picture made: Dask itself gives to others what a dead worker had."""
        made: Future[Made] = Future()
        key = f"zvl-{uuid.uuid4().hex}"
        asked = self._client.submit(make, self._spec, job, key=key, pure=False, retries=1, **self._where)
        self._futures[asked] = made
        asked.add_done_callback(self._done)
        return made

    def _done(self, asked: Any) -> None:
        made = self._futures.pop(asked, None)
        if made is None or made.done():
            return
        try:
            made.set_result(asked.result(_FETCH))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            made.set_exception(_named(error))

    def close(self) -> None:
        left, self._futures = list(self._futures), {}
        self._client.cancel(left, force=True)
        self._client.close(5)


def _connected(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise ZvlError("--dask needs a package that is not there: python -m pip install dask distributed") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told in lines of ours
    try:
        return Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError, asyncio.TimeoutError) as error:
        where = f"There is no Dask scheduler at {plain(address, 100)} ({reason(error)})."
        raise ZvlError(f"{where} Start one with: dask scheduler") from None


def _named(error: BaseException) -> BaseException:
    kind = type(error).__name__
    if kind == "KilledWorker":
        return ZvlError("Every Dask worker that tried this died of it. Is there enough memory?")
    if kind in ("CancelledError", "FutureCancelledError", "CommClosedError"):
        return Unfit("The Dask cluster is gone. Start it, and run this again to go on.")
    if isinstance(error, ImportError):
        return Unfit(_unable(error))
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return ZvlError("A Dask worker has made this and does not hand it over. Run this again to go on.")
    return ZvlError(str(error)) if isinstance(error, ValueError) else error


def _unable(error: BaseException) -> str:
    if isinstance(error, ZvlError):
        return str(error)
    if isinstance(error, ImportError):
        return f"The Dask workers lack a package ({error}). Install it there, and this one."
    if isinstance(error, TimeoutError):
        return "No Dask worker answers. Start some with: dask worker ADDRESS --nthreads 1"
    return f"The Dask workers can't make pictures ({plain(error, 150)})."


def open_target(args: argparse.Namespace, say: Callable[[str], None]) -> Cluster:
    return Cluster(args.dask, spec_of(args), say)
