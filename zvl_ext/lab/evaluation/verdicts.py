"""What the numbers say: the claims, decided by their stated rules. No verdict is written by hand."""

from __future__ import annotations

from dataclasses import dataclass

from .claims.claim import Claim
from .claims.findings import FINDINGS
from .claims.fitted import FITTED, SMALL_TRAINING
from .claims.must_show import MUST_SHOW
from .claims.roles import TAKEN_OVER
from .table import Missing, Table


@dataclass(frozen=True)
class Verdict:
    """A claim, the rule that decides about it, the numbers, and what the rule says."""

    claim: str
    rule: str
    numbers: str
    verdict: str


def what_it_must_show(table: Table) -> list[Claim]:
    """What the miniature and the product must show, about a table."""
    return [claim.about(table) for claim in (*MUST_SHOW, *TAKEN_OVER, *FITTED)]


def findings(table: Table) -> list[Claim]:
    """The published findings, about a table."""
    return [claim.about(table) for claim in (*FINDINGS, SMALL_TRAINING)]


def decide(claims: list[Claim]) -> list[Verdict]:
    """A verdict on each claim; "not measured" where its rows are not there."""
    verdicts = []
    for text, rule, judge in claims:
        try:
            numbers, verdict = judge()
        except (Missing, KeyError):
            numbers, verdict = "", "not measured"
        verdicts.append(Verdict(text, rule, numbers, verdict))
    return verdicts
