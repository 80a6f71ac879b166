"""Asking in Prefect: one question after the other, until enough people have answered.

There is one way to ask and there are two ways to wait.  The root run of a deployment *suspends*: its process ends,
it may wait for days, and worker and server may be restarted meanwhile.  Any other run *pauses* and holds its process.
When a run goes on, all its questions and answers are read again, so nothing depends on what it had in memory.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input.run_input import keyset_from_base_key
from prefect.logging import get_run_logger
from prefect.states import Running
from pydantic import ValidationError

from ranking.approval import known_as
from ranking.questions import Question, more_needed, sum_up
from ranking.results import Approval, Evidence
from ranking.times import as_utc
from settings.effects import ApprovalKnobs
from settings.model import Settings
from tasks.clock import moment
from tasks.question_page import links_to, question_page
from tasks.questions import ApprovalForm, Asked, Wait, form_of, key_of, prefix_of, read_all, save, subject_of

REQUESTED = "feedloop.approval.requested"
"""Name of the event that tells Prefect's automations that somebody has to decide."""

POLL_SECONDS = 2
"""How soon a paused run notices an answer."""


def inquire(
    evidence: Evidence, *, settings: Settings, forced: bool, requested_by: str | None, now: datetime | None
) -> Approval:
    """Ask until enough different people approved, or one rejected.  Takes what ``request_approval`` takes.

    A question that was asked and never answered (the process was killed, and the run tried again) is asked again
    under the next number: Prefect itself would let a run pass that has paused before.

    Raises:
        prefect.exceptions.Pause: the run is suspended; it comes here again when somebody answered.
    """
    with get_client(sync_client=True) as client:
        desk = _Desk(client, _this_run(), subject_of(evidence), now)
        while True:
            asked = desk.asked()
            approval = _approval(asked, evidence)
            if approval is not None and not more_needed(approval, evidence, settings.approval, moment.fn(now)):
                return approval
            question = _question(
                evidence, asked, settings.approval, forced=forced, requested_by=requested_by, at=moment.fn(now)
            )
            links = links_to(client, evidence.comparison.challenger, settings.registry.tracking_uri)
            _announce(question)
            in_time = desk.ask(question, question_page(question, evidence, links), settings.approval.timeout_hours)
            if not in_time and desk.asked()[-1].answer is None:
                return _nobody(evidence, question, settings.approval.timeout_hours, moment.fn(now))


def answered_before(evidence: Evidence, now: datetime | None) -> Approval | None:
    """What people have answered about this evidence in this very run; None when nobody has.

    Raises:
        RuntimeError: called outside of a flow run.
    """
    with get_client(sync_client=True) as client:
        return _approval(_Desk(client, _this_run(), subject_of(evidence), now).asked(), evidence)


@dataclass(frozen=True)
class _Desk:
    """Where one run asks about one piece of evidence."""

    client: SyncPrefectClient
    run: FlowRun
    subject: str
    now: datetime | None

    @property
    def wait(self) -> Wait:
        """Only the root run of a deployment can be started again by a worker, so only that one may end."""
        root = self.run.parent_task_run_id is None
        return "suspended" if root and self.run.deployment_id is not None else "paused"

    def asked(self) -> tuple[Asked, ...]:
        return read_all(self.client, self.run.id, prefix_of(self.wait, self.subject), self.now)

    def ask(self, question: Question, text: str, timeout_hours: float) -> bool:
        """Wait until somebody answers; False when nobody did in time."""
        save(self.client, self.run.id, self.wait, self.subject, question)
        form, key = form_of(question, text), key_of(self.subject, question.number)
        if self.wait == "suspended":
            try:
                # No timeout of Prefect's: it would fail the run, and a late answer would be recorded nowhere.
                suspend_flow_run(wait_for_input=form, key=key, timeout=None)
            except Pause:
                self._store(form, key)
                raise
        try:
            pause_flow_run(wait_for_input=form, key=key, timeout=int(timeout_hours * 3600), poll_interval=POLL_SECONDS)
        except FlowPauseTimeout:
            # Forced, because Prefect would fail a run that leaves a pause late, and then nothing would be recorded.
            self.client.set_flow_run_state(self.run.id, Running(), force=True)
            return False
        except ValidationError:
            # Somebody let the run go on past the form: nothing was answered, so it is asked again.
            return True
        return True

    def _store(self, form: type[ApprovalForm], key: str) -> None:
        """See to it that a suspended run has its form.

        Prefect suspends first and stores the form then.  When the server is so slow that its first answer is lost, the
        second one is "it is suspended already", and Prefect ends the run there: nobody could answer.
        """
        keys = keyset_from_base_key(f"{self.wait}-{key}")
        if not self.client.filter_flow_run_input(self.run.id, key_prefix=keys["schema"], limit=1, exclude_keys=set()):
            form.save(keys, flow_run_id=self.run.id)


def _approval(asked: tuple[Asked, ...], evidence: Evidence) -> Approval | None:
    answers = [past.answer for past in asked if past.answer is not None]
    return sum_up(answers, evidence) if answers else None


def _this_run() -> FlowRun:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("An approval can only be asked for within a flow run.")
    return context.flow_run


def _question(
    evidence: Evidence,
    asked: tuple[Asked, ...],
    knobs: ApprovalKnobs,
    *,
    forced: bool,
    requested_by: str | None,
    at: datetime,
) -> Question:
    comparison, verdict = evidence.comparison, evidence.verdict
    answers = [past.answer for past in asked if past.answer is not None]
    # Those who approved already do not wait for ever for the others.
    ends = [answer.question.expires_at for answer in answers] or [at + timedelta(hours=knobs.timeout_hours)]
    return Question(
        number=len(asked) + 1,
        model=comparison.challenger.name,
        challenger=comparison.challenger.version,
        against=evidence.compared_with,
        decision=verdict.decision,
        confidence=verdict.confidence,
        reason=verdict.reason,
        evidence_digest=evidence.digest,
        forced=forced,
        requested_by=requested_by,
        asked_at=at,
        expires_at=min(ends),
        approvers=knobs.approvers,
        approvals=knobs.approvals,
        approved_by=tuple({known_as(answer.approver): answer.approver for answer in answers}.values()),
    )


def _announce(question: Question) -> None:
    get_run_logger().warning(
        "Approval needed: version %s of %s against %s, %s (%s confidence), evidence %s, until %s",
        question.challenger,
        question.model,
        question.against or "nothing",
        question.decision,
        question.confidence,
        question.evidence_digest[:16],
        as_utc(question.expires_at),
    )
    # Best effort: with the server away it is lost without a word.  What waits is always in `feedloop pending`.
    emit_event(
        REQUESTED,
        resource={"prefect.resource.id": f"feedloop.model.{question.model}.{question.challenger}"},
        payload=question.model_dump(mode="json"),
    )


def _nobody(evidence: Evidence, question: Question, timeout_hours: float, at: datetime) -> Approval:
    return Approval(
        approved=False,
        approver="nobody",
        reason=f"Nobody answered within {timeout_hours:g} hours.",
        channel="nobody",
        evidence_digest=evidence.digest,
        requested_by=question.requested_by,
        at=at,
    )
