"""A crew: several members work on jobs at the same time, and what one of them loses goes to another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import ZvlError

TRIES = 3  # of one job that fails wherever it is tried
REST = 0.5  # seconds that a member rests after a failure
PATIENCE = 6  # times in a row that a member may be away before nobody counts on it
LONGEST_REST = 60.0  # seconds


class Failed(Exception):  # noqa: N818 - it is tried again
    """This job did not work out; another try may. The text says why, as the end of a line."""


class Gone(Exception):  # noqa: N818 - its job goes to another
    """This member can't work at the moment; its job can be done by another. The text says why."""


class Unfit(ZvlError):  # noqa: N818 - it is one
    """No member will ever do any of these jobs: what is wrong is wrong for all."""


class Member(Protocol):
    """Who works, one job at a time.

    Attributes:
        name: As people call it.
    """

    name: str

    def work(self, job: Any) -> Any:
        """Do a job.

        Raises:
            Failed, Gone, Unfit: see there. Anything else is the job's own failure, for good.
        """

    def close(self) -> None:
        """End it, also in the middle of a job."""


@dataclass
class _Task:
    job: Any
    group: Any
    future: Future = field(default_factory=Future)
    tries: int = 0


class Crew:
    """Members at work, each in a thread of its own.

    Args:
        rest: Seconds that a member rests after a failure, twice as long after each further one in a row; default: REST.
        group: What jobs have in common that is cheap to do one after another; a member keeps to its own as long as
            there is some of it.
        say: Told that a member is away, and that it is back.
        ahead: Jobs that are worth handing over for each member.
    """

    def __init__(
        self,
        members: Iterable[Member],
        rest: float | None = None,
        group: Callable[[Any], Any] = lambda job: None,
        say: Callable[[str], None] = lambda line: None,
        ahead: int = 1,
    ):
        self.members = list(members)
        self.hands, self.width = len(self.members), ahead * len(self.members)
        self._rest, self._group, self._say = REST if rest is None else rest, group, say
        self._tasks: deque[_Task] = deque()
        self._at_work: dict[int, Any] = {}  # groups by the member's number
        self._own: dict[int, Any] = {}  # the same, of the last job that each has had
        self._away: dict[int, int] = {}  # failures in a row by the member's number
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._unfit: ZvlError | None = None
        self._threads = [
            threading.Thread(target=self._serve, args=(number, member), daemon=True)
            for number, member in enumerate(self.members)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Any) -> Future:
        """Have a job done; jobs are begun in the order in which they come."""
        task = _Task(job, self._group(job))
        with self._changed:
            if self._unfit is not None:
                task.future.set_exception(self._unfit)
                return task.future
            self._tasks.append(task)
            self._changed.notify()
        return task.future

    def close(self) -> None:
        """End all members; jobs that are not done never will be."""
        with self._changed:
            self._closed.set()
            self._tasks.clear()
            self._changed.notify_all()
        for member in self.members:
            member.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self, number: int, member: Member) -> None:
        while (task := self._next(number)) is not None:
            try:
                result = member.work(task.job)
            except Gone as error:
                self._back(task)
                self._rests(number, member, str(error))
            except Failed as error:
                task.tries += 1
                if task.tries < TRIES:
                    self._back(task)
                else:
                    task.future.set_exception(ZvlError(f"Tried {TRIES} times without success: {error}."))
                self._closed.wait(self._rest)
            except Unfit as error:
                self._give_up(error, task)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                task.future.set_exception(error)
            else:
                if self._away.pop(number, 0):
                    self._say(f"{member.name} is back.")
                task.future.set_result(result)
            with self._changed:
                self._at_work.pop(number, None)

    def _next(self, number: int) -> _Task | None:
        """The next job of the member's own group, or of one that nobody works at, or the next at all."""
        with self._changed:
            while not self._closed.is_set():
                if self._tasks:
                    busy = set(self._at_work.values())
                    task = next(
                        (t for t in self._tasks if number in self._own and t.group == self._own[number]),
                        next((t for t in self._tasks if t.group not in busy), self._tasks[0]),
                    )
                    self._tasks.remove(task)
                    self._at_work[number] = self._own[number] = task.group
                    return task
                self._changed.wait()
        return None

    def _back(self, task: _Task) -> None:
        with self._changed:
            if self._unfit is not None:
                task.future.set_exception(self._unfit)
            else:
                self._tasks.appendleft(task)
                self._changed.notify()

    def _rests(self, number: int, member: Member, why: str) -> None:
        if self._closed.is_set():
            return
        times = self._away[number] = self._away.get(number, 0) + 1
        if times == 1:
            others = "Its part goes to the others." if len(self.members) > 1 else "It is tried again."
            self._say(f"{member.name} does not work at the moment ({why}). {others}")
        with self._changed:
            lost = len(self._away) == len(self.members) and min(self._away.values()) >= PATIENCE
        if lost:
            who = f"{member.name} does not answer" if len(self.members) == 1 else f"None of {len(self.members)} answers"
            self._give_up(Unfit(f"{who} any more ({why})."))
        self._closed.wait(min(self._rest * 2 ** (times - 1), LONGEST_REST))

    def _give_up(self, error: ZvlError, task: _Task | None = None) -> None:
        """Nothing more will be done by anybody."""
        with self._changed:
            self._unfit = self._unfit or error
            left = [*self._tasks, *([task] if task else [])]
            self._tasks.clear()
        for each in left:
            each.future.set_exception(error)
