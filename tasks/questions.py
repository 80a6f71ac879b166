"""Questions as Prefect keeps them: beside the flow run that asks, with the form to fill in and what was answered.

Everything about question 2 of a run lies in the run's inputs under ``<wait>-approval-<model>-2-…``: ``question`` is
ours, ``schema``, ``description`` and ``response`` are Prefect's.  They outlive worker and server.
"""

import json
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.input import RunInput
from pydantic import Field, ValidationError, create_model

from ranking.questions import Answer, Question
from ranking.results import Evidence
from ranking.values import Value, canonical_json

Wait = Literal["suspended", "paused"]
"""How a run waits, in the words of Prefect's keys: without a process, or within one."""

PREFIXES = ("suspended-approval-", "paused-approval-")
"""What the keys of all questions begin with."""

_MOST_INPUTS = 200
_DIGEST = 12


class ApprovalForm(RunInput):
    """What the Prefect UI asks.  ``approver`` is required, so that a bare Resume cannot approve."""

    decision: Literal["reject", "approve"] = Field(
        default="reject", description="approve: the challenger becomes champion. reject: the champion stays."
    )
    approver: str = Field(min_length=1, pattern=r"\S", description="Your name; it is written to the ledger.")
    reason: str = Field(default="", description="Why, for whoever reads the ledger.")
    evidence_digest: str = Field(
        default="", description="What you have read. Leave it: an approval of anything else does not count."
    )


class Asked(Value):
    """A question, and its answer if there is one."""

    key: str = Field(description="What Prefect's keys of its form, text and answer begin with.")
    question: Question
    text: str = Field(description="The Markdown beside the form.")
    answer: Answer | None


def form_of(question: Question, text: str) -> type[ApprovalForm]:
    """The form of one question: the digest is filled in, and ``text`` (Markdown) stands beside it."""
    field = ApprovalForm.model_fields["evidence_digest"]
    # Not with_initial_data(evidence_digest=…): that would drop the field's description.
    shown = Field(default=question.evidence_digest, description=field.description)
    form = create_model("ApprovalForm", __base__=ApprovalForm, evidence_digest=(str, shown))
    return form.with_initial_data(description=text)


def subject_of(evidence: Evidence) -> str:
    """What a question is about, as part of a key: an answer about one model is never found for another."""
    challenger = evidence.comparison.challenger
    return f"approval-{challenger.version}-{challenger.digest[:_DIGEST]}-{evidence.digest[:_DIGEST]}"


def prefix_of(wait: Wait, subject: str) -> str:
    """What the keys of all questions about a subject begin with."""
    return f"{wait}-{subject}-"


def key_of(subject: str, number: int) -> str:
    """The key of Prefect's pause for a question."""
    return f"{subject}-{number}"


def save(client: SyncPrefectClient, run_id: UUID, wait: Wait, subject: str, question: Question) -> None:
    """Note a question before it is asked, so that its number is never used again, whatever happens then."""
    key = f"{wait}-{key_of(subject, question.number)}-question"
    client.create_flow_run_input(run_id, key, canonical_json(question))


def read_all(client: SyncPrefectClient, run_id: UUID, prefix: str, now: datetime | None = None) -> tuple[Asked, ...]:
    """Questions that a run has asked, with their answers, by their keys; the first asked first.

    Args:
        client: of the Prefect server.
        run_id: the run that asks.
        prefix: of the keys, such as that of :func:`prefix_of`.
        now: when answers count as given; without it, when the server got them.
    """
    found = client.filter_flow_run_input(run_id, key_prefix=prefix, limit=_MOST_INPUTS, exclude_keys=set())
    inputs = {item.key: item.value for item in found}
    times = {item.key: item.created for item in found}
    asked = []
    for key, value in inputs.items():
        base, _, part = key.rpartition("-")
        if part != "question":
            continue
        question = Question.model_validate_json(value)
        response = inputs.get(f"{base}-response")
        at = now or times.get(f"{base}-response") or datetime.now(UTC)
        asked.append(
            Asked(
                key=base,
                question=question,
                text=json.loads(inputs.get(f"{base}-description", '""')),
                answer=_answer(question, response, at) if response is not None else None,
            )
        )
    return tuple(sorted(asked, key=lambda past: (past.question.asked_at, past.question.number)))


def _answer(question: Question, response: str, at: datetime) -> Answer | None:
    try:
        form = ApprovalForm.model_validate_json(response)
    except ValidationError:
        # Prefect checks what comes through its form; what somebody stored past it is no answer.
        return None
    return Answer(
        question=question,
        approved=form.decision == "approve",
        approver=form.approver.strip(),
        reason=form.reason.strip() or f"{form.decision} without a reason",
        # The key holds the digest too, so an answer without one is an answer to what was asked.
        evidence_digest=form.evidence_digest or question.evidence_digest,
        at=at,
    )
