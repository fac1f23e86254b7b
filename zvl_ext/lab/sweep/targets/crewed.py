"""A target with several members, each of which makes one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...crew import Crew, Member


class Crewed(Crew):
    """Jobs go to whoever is free, those of one group to the same, and what one loses goes to the others.

    Args:
        name, identity: As `Target`'s.
        ahead: Jobs that are handed over for each member.
    """

    def __init__(self, members: Sequence[Member], name: str, identity: str, ahead: int, say: Callable[[str], None]):
        super().__init__(members, group=lambda job: job.group, say=say, ahead=ahead)
        self.name, self.identity = name, identity
