"""A target with several members, each of which makes one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from ...crew import Crew, Member
from . import Job, Made


class Crewed:
    """Jobs go to whoever is free, those of one group to the same, and what one loses goes to the others.

    Args:
        members: They are `members` afterwards.
        name, identity: As `Target`'s.
        ahead: Jobs that are handed over for each member.
    """

    def __init__(self, members: Sequence[Member], name: str, identity: str, ahead: int, say: Callable[[str], None]):
        self.members, self.name, self.identity = list(members), name, identity
        self._ahead, self._crew = ahead, Crew(members, group=lambda job: job.group, say=say)

    @property
    def hands(self) -> int:
        return len(self.members)

    @property
    def width(self) -> int:
        return self._ahead * len(self.members)

    def submit(self, job: Job) -> Future[Made]:
        return self._crew.submit(job)

    def close(self) -> None:
        self._crew.close()
