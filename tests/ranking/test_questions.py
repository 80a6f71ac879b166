"""Answers summed up: a single no is a no, and one person is one person however often they answer."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from ranking.approval import ApprovalRules
from ranking.decision import Confidence, Decision
from ranking.questions import Answer, Question, more_needed, sum_up
from tests.examples import NOW, evidence, with_verdict

PROOF = with_verdict(evidence(), decision=Decision.PROMOTE, confidence=Confidence.HIGH)
HOUR = timedelta(hours=1)


def question(number: int = 1, hours: float = 24) -> Question:
    return Question(
        number=number,
        model="feed_ranker",
        challenger="2",
        against="1",
        decision=Decision.PROMOTE,
        confidence=Confidence.HIGH,
        reason="clear",
        evidence_digest=PROOF.digest,
        forced=False,
        requested_by="rita",
        asked_at=NOW,
        expires_at=NOW + hours * HOUR,
        approvers=(),
        approvals=2,
    )


def answer(
    name: str, *, approved: bool = True, number: int = 1, digest: str = PROOF.digest, hours: float = 24
) -> Answer:
    return Answer(
        question=question(number, hours),
        approved=approved,
        approver=name,
        reason=f"{name} says so",
        evidence_digest=digest,
        at=NOW + number * HOUR,
    )


names = st.sampled_from(["ann", "Ann ", "bob", "cleo"])


@given(st.lists(st.tuples(names, st.booleans()), min_size=1, max_size=6))
def test_it_is_approved_exactly_when_nobody_said_no(said: list[tuple[str, bool]]) -> None:
    answers = [answer(name, approved=yes, number=place) for place, (name, yes) in enumerate(said, start=1)]
    approval = sum_up(answers, PROOF)
    assert approval.approved == all(yes for _, yes in said)
    if approval.approved:
        assert len(approval.approvers) == len({name.strip().casefold() for name, _ in said})
        assert approval.at == answers[-1].at
    else:
        first = next(one for one in answers if not one.approved)
        assert (approval.approvers, approval.reason) == ((first.approver,), first.reason)


def test_reasons_and_people_stand_in_the_order_of_their_answers() -> None:
    approval = sum_up([answer("ann"), answer("bob", number=2)], PROOF)
    assert approval.approvers == ("ann", "bob")
    assert approval.reason == "ann says so; bob says so"
    assert approval.requested_by == "rita"


def test_the_shortest_time_counts_and_one_answer_to_something_else_spoils_them_all() -> None:
    approval = sum_up([answer("ann", hours=3), answer("bob", digest="0" * 64)], PROOF)
    assert approval.expires_at == NOW + 3 * HOUR
    assert approval.evidence_digest == "0" * 64


def test_another_person_is_asked_only_when_nothing_but_their_number_is_wrong() -> None:
    two = ApprovalRules(approvals=2)
    assert more_needed(sum_up([answer("ann")], PROOF), PROOF, two, NOW)
    assert more_needed(sum_up([answer("ann"), answer("Ann")], PROOF), PROOF, two, NOW)
    assert not more_needed(sum_up([answer("ann"), answer("bob")], PROOF), PROOF, two, NOW)
    assert not more_needed(sum_up([answer("ann", approved=False)], PROOF), PROOF, two, NOW)
    assert not more_needed(sum_up([answer("ann", digest="0" * 64)], PROOF), PROOF, two, NOW)
    assert not more_needed(sum_up([answer("ann")], PROOF), PROOF, two, NOW + 25 * HOUR)
    known = ApprovalRules(approvals=2, approvers=("bob", "cleo"))
    assert not more_needed(sum_up([answer("ann")], PROOF), PROOF, known, NOW)
    others = ApprovalRules(approvals=2, requester_may_approve=False)
    assert not more_needed(sum_up([answer("Rita")], PROOF), PROOF, others, NOW)
