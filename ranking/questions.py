"""Questions and answers: what is asked about a promotion, what people answered, and what that makes together.

Pure: how a question reaches somebody is not decided here.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field, PositiveInt

from ranking.approval import ApprovalRules, known_as, require_valid
from ranking.decision import Confidence, Decision
from ranking.errors import ApprovalRefused, TooFewApprovals
from ranking.results import Approval, Evidence
from ranking.values import Value


class Question(Value):
    """Shall this challenger replace that champion?  As everybody who may answer gets to see it."""

    number: PositiveInt = Field(description="Counts the questions that one run asks about the same evidence.")
    model: str
    challenger: str = Field(description="Version that would become champion.")
    against: str | None = Field(description="Version that serves; None when there is no champion yet.")
    decision: Decision
    confidence: Confidence
    reason: str = Field(description="The verdict's sentence.")
    evidence_digest: str = Field(description="What is shown; an answer is bound to it.")
    forced: bool
    requested_by: str | None
    asked_at: AwareDatetime
    expires_at: AwareDatetime = Field(description="An approval counts until then.")
    approvers: tuple[str, ...] = Field(description="Who may approve; empty is anybody.")
    approvals: PositiveInt = Field(description="So many people must approve.")
    approved_by: tuple[str, ...] = Field(default=(), description="Who has approved already.")


class Answer(Value):
    """What one person said to one question."""

    question: Question
    approved: bool
    approver: str
    reason: str
    evidence_digest: str = Field(description="What the person had before them.")
    at: AwareDatetime


def sum_up(answers: Sequence[Answer], evidence: Evidence, channel: Literal["prefect"] = "prefect") -> Approval:
    """All answers so far as one approval: a single no is a no.

    Args:
        answers: oldest first, at least one.
        evidence: what is asked about.
        channel: how the answers came.
    """
    refusal = next((answer for answer in answers if not answer.approved), None)
    if refusal is not None:
        answers = [refusal]
    people = {known_as(answer.approver): answer.approver for answer in reversed(answers)}
    names = [people[known] for known in dict.fromkeys(known_as(answer.approver) for answer in answers)]
    shown = [answer.evidence_digest for answer in answers]
    return Approval(
        approved=refusal is None,
        approver=names[0],
        seconded_by=tuple(names[1:]),
        reason="; ".join(dict.fromkeys(answer.reason for answer in answers)),
        channel=channel,
        # One answer to something else spoils them all.
        evidence_digest=next((other for other in shown if other != evidence.digest), evidence.digest),
        requested_by=answers[-1].question.requested_by,
        at=max(answer.at for answer in answers),
        expires_at=min(answer.question.expires_at for answer in answers),
    )


def more_needed(approval: Approval, evidence: Evidence, rules: ApprovalRules, now: datetime) -> bool:
    """Whether another person has to be asked: nothing is wrong with the approval but that there are too few of them."""
    try:
        require_valid(approval, evidence, rules, (), now)
    except TooFewApprovals:
        return True
    except ApprovalRefused:
        return False
    return False
