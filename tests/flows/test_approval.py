"""The approval gate on a real Prefect server."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun

from flows.approval import answered_by, request_approval
from ranking.results import Approval, Confidence, Decision, Evidence
from settings.effects import ApprovalKnobs
from tests.examples import NOW, evidence, with_verdict

pytestmark = pytest.mark.usefixtures("prefect_server")

ASK = ApprovalKnobs()
AUTO = ApprovalKnobs(mode="auto")


@pytest.fixture(scope="module")
def proof() -> Evidence:
    return with_verdict(evidence(), decision=Decision.PROMOTE, confidence=Confidence.HIGH)


@flow
def gate(proof: Evidence, knobs: ApprovalKnobs, forced: bool = False) -> Approval:
    return request_approval(proof, summary="# the evidence", knobs=knobs, forced=forced, now=NOW)


@flow
def parent(proof: Evidence, knobs: ApprovalKnobs) -> Approval:
    return gate(proof, knobs)


def while_paused(
    act: Callable[[Any, FlowRun], Any], proof: Evidence, knobs: ApprovalKnobs = ASK
) -> tuple[Approval, Any]:
    """Run the gate as a subflow; once it pauses, let ``act`` do what a person would."""
    stop = threading.Event()

    def person() -> Any:
        with get_client(sync_client=True) as client:
            while not stop.is_set():
                paused = [run for run in client.read_flow_runs() if run.state and run.state.is_paused()]
                if paused:
                    return act(client, paused[0])
                time.sleep(0.2)
        return None

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(person)
        try:
            return parent(proof, knobs), acting.result(timeout=60)
        finally:
            stop.set()


def test_an_approval_given_in_prefect_is_bound_to_the_evidence_shown(proof: Evidence) -> None:
    answer = {"decision": "approve", "approver": "ann", "reason": "looks right"}
    approval, _ = while_paused(lambda client, run: client.resume_flow_run(run.id, run_input=answer), proof)
    assert approval.approved
    assert (approval.approver, approval.reason, approval.channel) == ("ann", "looks right", "prefect")
    assert approval.evidence_digest == proof.digest


def test_a_form_sent_with_its_default_decision_rejects(proof: Evidence) -> None:
    approval, _ = while_paused(lambda client, run: client.resume_flow_run(run.id, run_input={"approver": "bob"}), proof)
    assert not approval.approved
    assert approval.approver == "bob"


def test_a_bare_resume_does_not_even_end_the_pause_and_the_timeout_keeps_the_champion(proof: Evidence) -> None:
    short = ApprovalKnobs(timeout_hours=6 / 3600)
    approval, response = while_paused(lambda client, run: client.resume_flow_run(run.id), proof, short)
    assert response.status.value == "REJECT"
    assert not approval.approved
    assert approval.channel == "nobody"
    assert "Nobody answered" in approval.reason


def test_somebody_at_hand_is_asked_instead_of_pausing(proof: Evidence) -> None:
    seen: list[Evidence] = []

    def at_hand(shown: Evidence, now: Any) -> Approval:
        seen.append(shown)
        return Approval(
            approved=True, approver="eve", reason="yes", channel="terminal", evidence_digest=shown.digest, at=now
        )

    with answered_by(at_hand):
        approval = parent(proof, ASK)
    assert seen == [proof]
    assert approval.approver == "eve"


def test_the_auto_policy_approves_only_a_promote_of_high_confidence_that_is_not_forced(proof: Evidence) -> None:
    refuse = lambda shown, now: Approval(  # noqa: E731 (the person who is asked when the policy does not apply)
        approved=False, approver="zoe", reason="no", channel="terminal", evidence_digest=shown.digest, at=now
    )
    with answered_by(refuse):
        assert gate(proof, AUTO).channel == "policy"
        assert gate(proof, ASK).approver == "zoe"
        assert gate(proof, AUTO, forced=True).approver == "zoe"
        assert gate(with_verdict(proof, confidence=Confidence.MEDIUM), AUTO).approver == "zoe"
        assert gate(with_verdict(proof, decision=Decision.A_B_TEST), AUTO).approver == "zoe"
