"""Members that work side by side: what one loses another does, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import crews
import pytest

from zvl_ext.errors import ZvlError
from zvl_ext.lab.crew import PATIENCE, TRIES, Crew, Failed, Gone, Unfit
from zvl_ext.lab.processes import Process

SOON = 0.001  # seconds of rest


class Worker:
    def __init__(self, name: str, work: Callable[[Any], Any] = lambda job: job, seconds: float = 0.0):
        self.name, self._work, self._seconds = name, work, seconds
        self.did: list[Any] = []
        self.closed = False

    def work(self, job: Any) -> Any:
        time.sleep(self._seconds)
        result = self._work(job)
        self.did.append(job)
        return result

    def close(self) -> None:
        self.closed = True


def raising(error: type[Exception], when: Callable[[Any], bool] = lambda job: True) -> Callable[[Any], Any]:
    def work(job: Any) -> Any:
        if when(job):
            raise error("no answer")
        return job

    return work


def results(crew: Crew, jobs: Any) -> list[Any]:
    futures = [crew.submit(job) for job in jobs]
    assert not wait(futures, 20).not_done
    return [future.exception() or future.result() for future in futures]


def test_jobs_are_shared_and_each_is_done_once() -> None:
    members = [Worker("a", seconds=0.002), Worker("b", seconds=0.002)]
    with Crew(members) as crew:
        assert results(crew, range(60)) == list(range(60))
    assert sorted(members[0].did + members[1].did) == list(range(60))
    assert all(len(member.did) > 10 and member.closed for member in members)


def test_what_a_lost_member_had_is_done_by_others() -> None:
    said: list[str] = []
    gone = threading.Event()
    lost = Worker("The one", raising(Gone, lambda job: gone.is_set()), 0.002)
    other = Worker("The other", seconds=0.002)

    def ends(job: Any) -> Any:
        if len(other.did) == 5:
            gone.set()
        return job

    other._work = ends
    with Crew([lost, other], SOON, say=said.append) as crew:
        assert results(crew, range(50)) == list(range(50))
    assert Counter(lost.did + other.did) == dict.fromkeys(range(50), 1)
    assert said == ["The one does not work at the moment (no answer). Its part goes to the others."]


def test_who_is_back_works_again() -> None:
    said: list[str] = []
    times = iter([True, True, False])
    back = Worker("The one", raising(Gone, lambda job: next(times, False)))
    with Crew([back], SOON, say=said.append) as crew:
        assert results(crew, range(5)) == list(range(5))
    assert said == ["The one does not work at the moment (no answer). It is tried again.", "The one is back."]


@pytest.mark.parametrize("count", [1, 3])
def test_where_nobody_is_left_all_jobs_say_so(count: int) -> None:
    with Crew([Worker(f"Nobody {n}", raising(Gone)) for n in range(count)], SOON) as crew:
        found = results(crew, range(9))
        assert all(isinstance(each, Unfit) and "(no answer)" in str(each) for each in found)
        late = crew.submit(1)
        assert isinstance(late.exception(5), Unfit)
    assert PATIENCE > 1


def test_a_job_that_fails_is_tried_again_and_given_up_alone() -> None:
    tried: Counter = Counter()

    def work(job: int) -> int:
        tried[job] += 1
        if job == 3 or (job == 5 and tried[5] < TRIES):
            raise Failed("its process was ended")
        return job

    with Crew([Worker("a", work), Worker("b", work)], SOON) as crew:
        found = results(crew, range(8))
    assert [each for each in found if not isinstance(each, Exception)] == [0, 1, 2, 4, 5, 6, 7]
    assert str(found[3]) == "Tried 3 times without success: its process was ended."
    assert tried == {n: TRIES if n in (3, 5) else 1 for n in range(8)}


def test_a_refusal_is_the_jobs_own_and_not_tried_again() -> None:
    tried: Counter = Counter()

    def work(job: int) -> int:
        tried[job] += 1
        if job % 2:
            raise ZvlError("This can't be.")
        return job

    with Crew([Worker("a", work)], SOON) as crew:
        assert [str(each) for each in results(crew, range(4))] == ["0", "This can't be.", "2", "This can't be."]
    assert set(tried.values()) == {1}


def test_members_keep_to_what_they_have_begun() -> None:
    """Jobs of a group read the same reference: each member has its own as long as there are several."""
    members = [Worker("a", seconds=0.003), Worker("b", seconds=0.003)]
    with Crew(members, group=lambda job: job // 10) as crew:
        results(crew, range(40))
    changes = [sum(a // 10 != b // 10 for a, b in zip(member.did, member.did[1:])) for member in members]
    assert sum(changes) <= 4, [member.did for member in members]  # the last group is shared


def test_closing_ends_what_waits() -> None:
    crew = Crew([Worker("a", seconds=0.05)], SOON)
    futures = [crew.submit(job) for job in range(100)]
    time.sleep(0.08)
    crew.close()
    done = [future for future in futures if future.done()]
    assert 0 < len(done) < 10


# --- processes


def test_a_process_that_is_killed_comes_again_and_loses_nothing(tmp_path: Path) -> None:
    process = Process("Worker", crews.prepare)
    with Crew([process], SOON) as crew:
        jobs = [
            ("echo", 1),
            ("die once", str(tmp_path / "died")),
            ("echo", 2),
            ("refuse", 0),
            ("wrong", "x"),
            ("die", 0),
        ]
        found = results(crew, jobs)
        pids = {each[2] for each in found[:3]}
        assert [each[:2] for each in found[:3]] == jobs[:3]
        assert len(pids) == 2
        assert str(found[3]) == "this can't be."
        assert "Something unexpected went wrong" in str(found[4])
        assert "Set ZVL_TRACEBACK=1 to see where." in str(found[4])
        assert "Tried 3 times without success: its process was ended (killed" in str(found[5])
        (last,) = results(crew, [("echo", 3)])
        pid = last[2]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_no_process_can_be_prepared_for_is_said_once() -> None:
    with Crew([Process("Worker", crews.prepare, "unable")], SOON) as crew:
        found = results(crew, [("echo", 1), ("echo", 2)])
    assert [(type(each), str(each)) for each in found] == [(Unfit, "There are no weights.")] * 2


def test_a_process_is_ended_in_the_middle_of_a_job() -> None:
    process = Process("Worker", crews.prepare)
    crew = Crew([process], SOON)
    results(crew, [("echo", 1)])
    crew.submit(("sleep", 60))
    time.sleep(0.1)
    began, pid = time.monotonic(), process.pid
    crew.close()
    assert time.monotonic() - began < 6
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
