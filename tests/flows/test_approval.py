"""The approval gate on a real Prefect server, in runs that pause because they belong to no deployment."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Running, Suspended

from flows.approval import answered_by, request_approval
from ranking.decision import Confidence, Decision
from ranking.results import Approval, Evidence
from settings.effects import ApprovalKnobs
from settings.model import Settings
from tasks import inquiry
from tests.examples import NOW, evidence, with_verdict

pytestmark = pytest.mark.usefixtures("prefect_server")

ASK = ApprovalKnobs()
AUTO = ApprovalKnobs(mode="auto")
TWO = ApprovalKnobs(approvals=2)
SHORT = ApprovalKnobs(timeout_hours=4 / 3600)


@pytest.fixture(scope="module")
def proof() -> Evidence:
    return with_verdict(evidence(), decision=Decision.PROMOTE, confidence=Confidence.HIGH)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(inquiry, "POLL_SECONDS", 0.2)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


@flow
def gate(
    proof: Evidence, knobs: ApprovalKnobs, forced: bool = False, requested_by: str | None = "rita", real: bool = False
) -> Approval:
    settings = Settings(approval=knobs)
    return request_approval(
        proof, settings=settings, forced=forced, requested_by=requested_by, now=None if real else NOW
    )


@flow
def parent(proof: Evidence, knobs: ApprovalKnobs, real: bool = False) -> Approval:
    return gate(proof, knobs, real=real)


Act = Callable[[SyncPrefectClient, FlowRun], Any]


def answer(**fields: str) -> Act:
    return lambda client, run: client.resume_flow_run(run.id, run_input=fields)


def while_paused(*acts: Act, ask: Callable[[], Approval]) -> tuple[Approval, list[Any]]:
    """Run the gate; each time it pauses, let the next of ``acts`` do what a person would."""
    stop = threading.Event()

    def people() -> list[Any]:
        done, seen = [], set()
        with get_client(sync_client=True) as client:
            while len(done) < len(acts) and not stop.is_set():
                for run in client.read_flow_runs():
                    ready = run.state is not None and run.state.is_paused() and _form(client, run) not in (None, *seen)
                    if ready and len(done) < len(acts):
                        seen.add(_form(client, run))
                        done.append(acts[len(done)](client, run))
                time.sleep(0.1)
        return done

    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(people)
        try:
            return ask(), acting.result(timeout=60)
        finally:
            stop.set()


def _form(client: SyncPrefectClient, run: FlowRun) -> tuple[Any, str] | None:
    """The question that the run shows; None as long as its form is not there."""
    assert run.state is not None
    keys = run.state.state_details.run_input_keyset
    found = keys and client.filter_flow_run_input(run.id, key_prefix=keys["schema"], limit=1, exclude_keys=set())
    return (run.id, keys["schema"]) if keys and found else None


def form(client: SyncPrefectClient, run: FlowRun) -> tuple[dict[str, Any], str]:
    """JSON schema of the form, and the Markdown beside it."""
    assert run.state is not None
    keys = run.state.state_details.run_input_keyset
    assert keys is not None
    found = {
        item.key: item.decoded_value
        for item in client.filter_flow_run_input(run.id, key_prefix="paused", limit=50, exclude_keys=set())
    }
    return found[keys["schema"]], found[keys["description"]]


def test_an_approval_given_in_prefect_is_bound_to_the_evidence_shown_and_names_who_asked(proof: Evidence) -> None:
    fields = {"decision": "approve", "approver": " ann ", "reason": "looks right"}
    approval, _ = while_paused(answer(**fields), ask=lambda: parent(proof, ASK))
    assert approval.approved
    assert (approval.approver, approval.reason, approval.channel) == ("ann", "looks right", "prefect")
    assert approval.evidence_digest == proof.digest
    assert approval.requested_by == "rita"
    assert (approval.at, approval.expires_at) == (NOW, NOW + timedelta(hours=72))


def test_a_form_sent_with_its_default_decision_rejects(proof: Evidence) -> None:
    approval, _ = while_paused(answer(approver="bob"), ask=lambda: parent(proof, ASK))
    assert not approval.approved
    assert (approval.approver, approval.reason) == ("bob", "reject without a reason")


def test_the_form_shows_the_numbers_who_asked_and_until_when_and_carries_the_digest(proof: Evidence) -> None:
    def look(client: SyncPrefectClient, run: FlowRun) -> tuple[dict[str, Any], str]:
        shown = form(client, run)
        client.resume_flow_run(run.id, run_input={"approver": "ann"})
        return shown

    _, ((schema, text),) = while_paused(look, ask=lambda: gate(proof, TWO, forced=True))
    assert schema["required"] == ["approver"]
    assert schema["properties"]["decision"]["default"] == "reject"
    assert schema["properties"]["decision"]["enum"] == ["reject", "approve"]
    assert schema["properties"]["evidence_digest"]["default"] == proof.digest
    assert not [name for name, field in schema["properties"].items() if not field.get("description")]
    for words in (
        "**Shall version 2 of feed_ranker serve, in place of version 1?**",
        "Asked by rita, 2026-02-01 00:00 UTC.",
        "An approval counts until 2026-02-04 00:00 UTC",
        "2 different people have to approve; so far: nobody yet.",
        "**This promotion is forced:**",
        "- **auc** ",
    ):
        assert words in text, text


def test_a_bare_resume_does_not_even_end_the_pause_and_the_timeout_keeps_the_champion(proof: Evidence) -> None:
    bare: Act = lambda client, run: client.resume_flow_run(run.id)  # noqa: E731 (what one person does)
    approval, (response,) = while_paused(bare, ask=lambda: parent(proof, SHORT))
    assert response.status.value == "REJECT"
    assert "'approver' is a required property" in response.details.reason
    assert not approval.approved
    assert approval.channel == "nobody"
    assert "Nobody answered within" in approval.reason


def test_a_run_that_somebody_lets_go_on_past_the_form_asks_again(proof: Evidence) -> None:
    past: Act = lambda client, run: client.set_flow_run_state(run.id, Running(), force=True)  # noqa: E731 (one person)
    approval, _ = while_paused(
        past, answer(decision="reject", approver="ann", reason="no"), ask=lambda: parent(proof, ASK)
    )
    assert (approval.approved, approval.approver, approval.reason) == (False, "ann", "no")


def test_two_of_two_have_to_be_two_different_people(proof: Evidence) -> None:
    yes = {"decision": "approve", "reason": "good"}
    approval, _ = while_paused(
        answer(approver="ann", **yes),
        answer(approver="Ann ", **yes),
        answer(approver="bob", **yes),
        ask=lambda: gate(proof, TWO),
    )
    assert approval.approved
    assert approval.approvers == ("ann", "bob")


def test_one_of_two_who_rejects_is_enough(proof: Evidence) -> None:
    approval, _ = while_paused(
        answer(approver="ann", decision="approve"),
        answer(approver="bob", reason="too early"),
        ask=lambda: gate(proof, TWO),
    )
    assert not approval.approved
    assert (approval.approvers, approval.reason) == (("bob",), "too early")


def test_nobody_is_asked_a_second_time_when_the_first_approval_does_not_count_anyway(proof: Evidence) -> None:
    known = ApprovalKnobs(approvals=2, approvers=("ann", "bob"))
    approval, _ = while_paused(answer(approver="mallory", decision="approve"), ask=lambda: gate(proof, known))
    assert approval.approvers == ("mallory",)
    other = {"approver": "ann", "decision": "approve", "evidence_digest": "0" * 64}
    approval, _ = while_paused(answer(**other), ask=lambda: gate(proof, known))
    assert approval.evidence_digest == "0" * 64


def test_the_time_of_an_answer_is_when_it_was_given(proof: Evidence) -> None:
    before = datetime.now(UTC)
    approval, _ = while_paused(answer(approver="ann", decision="approve"), ask=lambda: parent(proof, ASK, real=True))
    assert before < approval.at < datetime.now(UTC)
    assert approval.expires_at is not None
    assert before + timedelta(hours=72) < approval.expires_at < approval.at + timedelta(hours=72)


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
    assert (approval.approver, approval.requested_by) == ("eve", "rita")


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


def test_a_run_that_was_suspended_by_a_lost_answer_gets_its_form_all_the_same(
    proof: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect's second answer is "suspended already", and then it stores no form."""

    def ends_early(**_: object) -> None:
        raise Pause(state=Suspended())

    monkeypatch.setattr(inquiry, "suspend_flow_run", ends_early)
    # What a run of a deployment does; this one has none, so it is only told so.
    monkeypatch.setattr(inquiry._Desk, "wait", "suspended")
    stored: list[str] = []

    @flow
    def asking() -> None:
        with get_client(sync_client=True) as client:
            run = inquiry._this_run()
            try:
                gate.fn(proof, ASK)
            except Pause:
                found = client.filter_flow_run_input(run.id, key_prefix="suspended", limit=50, exclude_keys=set())
                stored.extend(item.key.rsplit("-", 1)[-1] for item in found)

    asking()
    assert sorted(stored) == ["description", "question", "schema"]
