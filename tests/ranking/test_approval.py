"""Whose approval counts, for what, and until when."""

from datetime import timedelta

import pytest

from ranking.approval import ApprovalRules, require_valid
from ranking.errors import (
    ApprovalExpired,
    ApprovalRefused,
    ApprovalReused,
    SelfApproval,
    TooFewApprovals,
    UnknownApprover,
    WrongEvidence,
)
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Approval, Evidence
from tests.examples import NOW, evidence

PROOF = evidence(rows=2_000)
STRICT = ApprovalRules(approvers=("Ada", "Bob", "Cleo"), approvals=2, requester_may_approve=False)


def yes(**changes: object) -> Approval:
    given = Approval(
        approved=True,
        approver="ada",
        seconded_by=("bob",),
        reason="clear",
        channel="prefect",
        evidence_digest=PROOF.digest,
        requested_by="schedule",
        at=NOW,
        expires_at=NOW + timedelta(hours=1),
    )
    return given.model_copy(update=changes)


def used(approval: Approval, operation: Operation = Operation.PROMOTE) -> LedgerEntry:
    return LedgerEntry(
        number=7,
        operation=operation,
        before="1",
        after="2",
        subject="2",
        digest="d",
        evidence_digest=PROOF.digest,
        forced=False,
        actor="ada",
        reason="r",
        at=NOW,
        previous_hash="",
        approval_digest=approval.digest,
    )


def test_two_known_people_who_did_not_ask_for_it_may_approve() -> None:
    require_valid(yes(), PROOF, STRICT, (), NOW + timedelta(hours=1))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"evidence_digest": "0" * 64}, WrongEvidence, "by ada, bob was given for other evidence"),
        ({"expires_at": NOW - timedelta(seconds=1)}, ApprovalExpired, "counted until 2026-01-31 23:59 UTC"),
        ({"seconded_by": ("mallory",)}, UnknownApprover, "mallory may not approve.*Ada, Bob, Cleo"),
        ({"requested_by": "BOB "}, SelfApproval, "bob asked for this promotion and approved it too"),
        ({"requested_by": None}, SelfApproval, "Nobody is known to have asked"),
        ({"seconded_by": ()}, TooFewApprovals, "1 of 2 people approved: ada"),
        ({"seconded_by": ("ADA",)}, TooFewApprovals, "1 of 2 people approved: ada, ADA"),
    ],
)
def test_an_approval_that_does_not_count_is_refused_by_name(
    changes: dict[str, object], error: type[ApprovalRefused], says: str
) -> None:
    with pytest.raises(error, match=says):
        require_valid(yes(**changes), PROOF, STRICT, (), NOW)


def test_an_approval_is_used_up_by_a_promotion_and_not_by_a_refusal() -> None:
    require_valid(yes(), PROOF, STRICT, (used(yes(), Operation.REFUSE),), NOW)
    with pytest.raises(ApprovalReused, match="used up by ledger entry 7 on 2026-02-01 00:00 UTC"):
        require_valid(yes(), PROOF, STRICT, (used(yes()),), NOW)


def test_anybody_may_reject_at_any_time() -> None:
    no = yes(approved=False, approver="mallory", seconded_by=(), evidence_digest="0" * 64)
    require_valid(no, PROOF, STRICT, (), NOW + timedelta(days=9))


def test_a_policy_that_approves_is_nobody_who_needs_to_be_known() -> None:
    by_policy = yes(channel="policy", approver="approval.mode = auto", seconded_by=())
    require_valid(by_policy, PROOF, STRICT, (), NOW)


def test_without_rules_one_name_is_enough() -> None:
    alone: Evidence = PROOF
    require_valid(yes(approver="anybody", seconded_by=(), requested_by=None), alone, ApprovalRules(), (), NOW)
