"""Whether an approval counts: for these very models, in time, once, by people who may.

Pure: the answer, the rules, the ledger and the time are arguments.  How somebody is asked is not decided here.
"""

from collections.abc import Sequence
from datetime import datetime

from pydantic import Field, PositiveInt

from ranking.errors import (
    ApprovalExpired,
    ApprovalReused,
    SelfApproval,
    TooFewApprovals,
    UnknownApprover,
    WrongEvidence,
)
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Approval, Evidence
from ranking.times import as_utc
from ranking.values import Knobs


class ApprovalRules(Knobs):
    """Whose approval counts."""

    approvers: tuple[str, ...] = Field(
        default=(), description="Names of those who may approve. Empty: anybody. Anybody may always reject."
    )
    approvals: PositiveInt = Field(
        default=1, le=10, description="So many different people must approve. One rejection is enough to reject."
    )
    requester_may_approve: bool = Field(
        default=True,
        description="false: whoever asked for the promotion may not approve it, and a promotion that nobody is known "
        "to have asked for is not approved either.",
    )


def require_valid(
    approval: Approval, evidence: Evidence, rules: ApprovalRules, entries: Sequence[LedgerEntry], now: datetime
) -> None:
    """Refuse a yes that does not count.  A no always counts, whoever says it.

    Args:
        approval: the answer.
        evidence: what the promotion rests on.
        rules: whose approval counts.
        entries: the ledger so far; it remembers which approvals were used up.
        now: when the approval is used.

    Raises:
        WrongEvidence, ApprovalExpired, ApprovalReused, UnknownApprover, SelfApproval, TooFewApprovals: by name.
    """
    if not approval.approved:
        return
    names = ", ".join(approval.approvers)
    if approval.evidence_digest != evidence.digest:
        raise WrongEvidence(
            f"The approval by {names} was given for other evidence ({approval.evidence_digest[:12]}…) than this "
            f"promotion rests on ({evidence.digest[:12]}…): something changed since. Ask for approval again."
        )
    if approval.expires_at is not None and now > approval.expires_at:
        raise ApprovalExpired(
            f"The approval by {names} counted until {as_utc(approval.expires_at)}, and it is {as_utc(now)}. "
            "Ask for approval again."
        )
    used = next((entry for entry in entries if entry.approval_digest == approval.digest and _used(entry)), None)
    if used is not None:
        raise ApprovalReused(
            f"The approval by {names} was used up by ledger entry {used.number} on {as_utc(used.at)}. "
            "Ask for approval again."
        )
    if approval.channel != "policy":
        _require_people(approval, rules)


def _used(entry: LedgerEntry) -> bool:
    return entry.operation in {Operation.PROMOTE, Operation.ROLLOUT}


def _require_people(approval: Approval, rules: ApprovalRules) -> None:
    for name in approval.approvers:
        if rules.approvers and known_as(name) not in {known_as(known) for known in rules.approvers}:
            raise UnknownApprover(
                f"{name} may not approve a promotion. Those who may: {', '.join(rules.approvers)} (approval.approvers)."
            )
    if not rules.requester_may_approve:
        _require_another(approval)
    people = {known_as(name) for name in approval.approvers}
    if len(people) < rules.approvals:
        raise TooFewApprovals(
            f"{len(people)} of {rules.approvals} people approved: {', '.join(approval.approvers)}. "
            "Ask for approval again, and let the others answer too (approval.approvals)."
        )


def _require_another(approval: Approval) -> None:
    if not approval.requested_by:
        raise SelfApproval(
            "Nobody is known to have asked for this promotion, so it cannot be told whether somebody else approved it. "
            "Name the requester when asking, or set approval.requester_may_approve."
        )
    for name in approval.approvers:
        if known_as(name) == known_as(approval.requested_by):
            raise SelfApproval(
                f"{name} asked for this promotion and approved it too. Somebody else has to approve it "
                "(approval.requester_may_approve)."
            )


def known_as(name: str) -> str:
    """One person under every spelling: case and surrounding space do not make another one."""
    return name.strip().casefold()
