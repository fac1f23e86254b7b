"""Generated inputs: how many, from which seed, and within which time and memory.

The suite tries a few of each kind, always the same ones. A long run, with inputs that were never tried:

    ZVL_EXAMPLES=20000 ZVL_SEED=7 python -m pytest tests/hold
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis

EXAMPLES = int(os.environ.get("ZVL_EXAMPLES", "0"))  # 0: as many as each test says
SEED = int(os.environ.get("ZVL_SEED", "0"))
SECONDS = 10
BYTES = 2 * 2**30  # beyond what the process has when an input is tried


def generated(examples: int) -> Callable[[Any], Any]:
    """Decorates a test with hypothesis' `given` below it: that many inputs in the suite, ZVL_EXAMPLES in a long run."""

    def decorate(test: Any) -> Any:
        chosen = hypothesis.settings(
            max_examples=EXAMPLES or examples,
            deadline=None,  # `bounded` is the limit: a machine with other work is slow at times
            derandomize=not SEED,
            database=None,
            print_blob=False,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        return chosen(hypothesis.seed(SEED)(test) if SEED else test)

    return decorate


@contextlib.contextmanager
def bounded(seconds: int = SECONDS, memory: int = BYTES) -> Iterator[None]:
    """What runs inside fails after so many seconds, and when it asks for more memory than so many bytes more."""

    def over(*_: object) -> None:
        raise TimeoutError(f"this takes more than {seconds} seconds")

    handler = signal.signal(signal.SIGALRM, over)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (_data() + memory, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data() -> int:
    """Bytes of this process' data, as RLIMIT_DATA counts them."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
