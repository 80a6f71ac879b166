"""What waits for an approval on the Prefect server, and answering it from the command line."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import Field
from rich.prompt import Confirm

from deployments.server import prefect_server
from deployments.session import Session
from deployments.who import who
from ranking.errors import ApprovalExpired, NothingToAnswer, ServerUnavailable, WrongEvidence
from ranking.questions import Question
from ranking.times import as_utc
from ranking.values import Value

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

_SHORTEST = 6
"""Fewest characters of a flow run's id, or of a digest, that name one."""

_PAGE = 200


class Waiting(Value):
    """A flow run that waits for an answer."""

    flow_run_id: str
    flow_run: str = Field(description="Its name.")
    question: Question
    text: str = Field(description="The evidence as shown, in Markdown.")
    expired: bool = Field(description="An approval would come too late.")


def pending(session: Session) -> int:
    """``feedloop pending``."""
    with prefect_server() as client:
        found = _waiting(client, datetime.now(UTC))
    if found:
        session.output.markdown("\n".join(_paragraphs(found)))
        session.output.say("Answer one with: feedloop approve RUN, or feedloop reject RUN.")
    else:
        session.output.say("Nothing waits for an approval.")
    session.output.finish(pending=[one.model_dump(mode="json", exclude={"text"}) for one in found])
    return 0


def answer(
    session: Session, *, which: str, approved: bool, reason: str, digest: str | None, name: str | None, yes: bool
) -> int:
    """``feedloop approve`` and ``feedloop reject``.

    Raises:
        NothingToAnswer: nothing of that name waits, several do, it was answered already, or the server refused.
        WrongEvidence: another digest is asked about than the given one.
        ApprovalExpired: an approval would come too late.
    """
    output = session.output
    with prefect_server() as client:
        one = _named(client, which, session.settings.registry.model_name)
        output.markdown(one.text)
        if approved:
            _require_same(one, digest)
            if not (yes or _confirmed(session, one)):
                output.say("Nothing was sent; it still waits.")
                output.finish(sent=False, flow_run_id=one.flow_run_id)
                return 7
        _send(client, one, approved=approved, approver=name or who(), reason=reason)
    verb = "approved" if approved else "rejected"
    output.say(
        f"Sent: {name or who()} {verb} version {one.question.challenger} of {one.question.model}. Run {one.flow_run} "
        "goes on with it; what came of it is in feedloop history."
    )
    output.finish(sent=True, flow_run_id=one.flow_run_id, decision=verb, evidence_digest=one.question.evidence_digest)
    return 0


def _waiting(client: "SyncPrefectClient", now: datetime) -> list[Waiting]:
    """All runs that wait for an approval, the oldest question first."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    paused = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    runs: list[FlowRun] = []
    while len(page := client.read_flow_runs(flow_run_filter=paused, limit=_PAGE, offset=len(runs))) == _PAGE:
        runs += page
    found = [_asked_by(client, run, now) for run in (*runs, *page)]
    return sorted((one for one in found if one is not None), key=lambda one: one.question.asked_at)


def _asked_by(client: "SyncPrefectClient", run: "FlowRun", now: datetime) -> Waiting | None:
    """What a paused run waits for; None when feedloop did not ask it."""
    from tasks.questions import read_all

    keys = run.state.state_details.run_input_keyset if run.state is not None else None
    if not keys:
        return None
    key = keys["schema"].removesuffix("-schema")
    asked = next((asked for asked in read_all(client, run.id, key) if asked.key == key), None)
    if asked is None:
        return None
    late = now > asked.question.expires_at
    return Waiting(flow_run_id=str(run.id), flow_run=run.name, question=asked.question, text=asked.text, expired=late)


def _named(client: "SyncPrefectClient", which: str, model: str) -> Waiting:
    """The one question that ``which`` names: a run's id, its first characters, its name, or a version of ``model``."""
    found = _waiting(client, datetime.now(UTC))
    matching = [one for one in found if _is(one, which, model)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NothingToAnswer(
            f"{which!r} names {len(matching)} questions: {_listed(matching)}. Give the flow run's id."
        )
    raise NothingToAnswer(
        f"{_answered(client, which) or f'Nothing waits that is called {which!r}.'} Waiting now: {_listed(found)}."
    )


def _is(one: Waiting, which: str, model: str) -> bool:
    if which in {one.flow_run_id, one.flow_run}:
        return True
    if len(which) >= _SHORTEST and one.flow_run_id.startswith(which):
        return True
    return one.question.model == model and one.question.challenger == which


def _listed(found: Sequence[Waiting]) -> str:
    named = (f"{one.flow_run_id} (version {one.question.challenger} of {one.question.model})" for one in found)
    return ", ".join(named) or "nothing"


def _answered(client: "SyncPrefectClient", which: str) -> str | None:
    """How a run's question was answered that does not wait any more, in words."""
    from prefect.exceptions import ObjectNotFound

    from tasks.questions import PREFIXES, read_all

    try:
        run = client.read_flow_run(UUID(which))
    except (ValueError, ObjectNotFound):
        return None
    answers = [asked.answer for prefix in PREFIXES for asked in read_all(client, run.id, prefix) if asked.answer]
    state = run.state.name if run.state else "unknown"
    if not answers:
        return f"Run {run.name} does not wait for an answer; it is {state}."
    last = max(answers, key=lambda answer: answer.at)
    word = "approved" if last.approved else "rejected"
    return f"Run {run.name} was answered already: {last.approver} {word} at {as_utc(last.at)}; it is {state}."


def _require_same(one: Waiting, digest: str | None) -> None:
    asked = one.question
    if digest is not None and (len(digest) < _SHORTEST or not asked.evidence_digest.startswith(digest)):
        raise WrongEvidence(
            f"Run {one.flow_run} asks about the evidence {asked.evidence_digest[:16]}…, not about {digest[:16]}…. "
            "Nothing was sent. Read what it shows, then approve that."
        )
    if one.expired:
        raise ApprovalExpired(
            f"An approval for run {one.flow_run} counted until {as_utc(asked.expires_at)}. Nothing was sent. Reject it "
            f"to end the run, and ask again: feedloop promote {asked.challenger}, or the deployment propose/promote."
        )


def _confirmed(session: Session, one: Waiting) -> bool:
    """At a terminal the evidence is read first; a script has said what it wants with its arguments."""
    if session.output.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    question = f"Make version {one.question.challenger} of {one.question.model} the champion?"
    return Confirm.ask(question, default=False, console=session.output.console)


def _send(client: "SyncPrefectClient", one: Waiting, *, approved: bool, approver: str, reason: str) -> None:
    from prefect.client.schemas.responses import SetStateStatus

    answered = client.resume_flow_run(
        UUID(one.flow_run_id),
        run_input={
            "decision": "approve" if approved else "reject",
            "approver": approver,
            "reason": reason,
            "evidence_digest": one.question.evidence_digest,
        },
    )
    # The answer is 200 or 201 also when nothing was accepted; only its status tells.
    if answered.status is SetStateStatus.ACCEPT:
        return
    because = getattr(answered.details, "reason", None) or answered.status.value
    if answered.status is SetStateStatus.ABORT:
        raise NothingToAnswer(
            f"{_answered(client, one.flow_run_id) or f'Run {one.flow_run} does not wait any more.'} ({because})"
        )
    raise ServerUnavailable(f"The Prefect server did not take the answer to run {one.flow_run}: {because}")


def _paragraphs(found: Sequence[Waiting]) -> list[str]:
    """A paragraph for each run: a terminal cuts the cells of so wide a table, and an id that is cut names nothing."""
    lines = []
    for one in found:
        asked = one.question
        lines += [
            f"**{one.flow_run}** `{one.flow_run_id}`",
            f"- asks for: {asked.model} {asked.challenger} against {asked.against or 'none'}",
            f"- verdict: {asked.decision}, {asked.confidence}{', forced' if asked.forced else ''}",
            f"- evidence: `{asked.evidence_digest[:16]}`",
            f"- asked by: {asked.requested_by or 'unknown'}",
            f"- approved by: {', '.join(asked.approved_by) or 'nobody'} "
            f"({len(asked.approved_by)} of {asked.approvals})",
            f"- counts until: {as_utc(asked.expires_at)}{' (expired)' if one.expired else ''}",
            "",
        ]
    return lines
