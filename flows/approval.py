"""Ask whether a challenger may become champion: a policy, somebody at hand, or a pause in Prefect.

Whoever is asked, the answer is an ``Approval`` bound to the digest of the evidence shown.  No answer is no.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Literal

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL
from pydantic import Field

from ranking.results import Approval, Confidence, Decision, Evidence
from settings.effects import ApprovalKnobs

Asker = Callable[[Evidence, datetime], Approval]
"""Somebody at hand: sees the evidence and answers now."""

POLL_SECONDS = 2
"""How soon an answer in the Prefect UI is noticed."""

_asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


@contextmanager
def answered_by(asker: Asker) -> Iterator[None]:
    """Within the block, promotions ask ``asker`` instead of pausing for the Prefect UI."""
    token = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(token)


class ApprovalForm(RunInput):
    """What the Prefect UI asks.  ``approver`` is required, so that a bare Resume cannot approve."""

    decision: Literal["reject", "approve"] = Field(
        default="reject", description="approve: the challenger becomes champion. reject: the champion stays."
    )
    approver: str = Field(min_length=1, description="Your name; it is written to the ledger.")
    reason: str = Field(default="", description="Why, for whoever reads the ledger.")


def request_approval(
    evidence: Evidence, *, summary: str, knobs: ApprovalKnobs, forced: bool, now: datetime
) -> Approval:
    """Get an answer for this pair of models.

    Args:
        evidence: the comparison and the verdict; the answer is bound to their digest.
        summary: the evidence as Markdown, shown beside the form.
        knobs: the approval policy.
        forced: a forced promotion is never waved through by policy.
        now: time written into the answer.

    Returns:
        The approval; ``approved`` is False when it was refused, timed out, or nobody could be asked.
    """
    asker = _asker.get()
    if knobs.mode == "auto" and not forced and _certain(evidence):
        return _answer(
            evidence, now, channel="policy", approver="approval.mode = auto", approved=True, reason="PROMOTE, high"
        )
    if asker is not None:
        return asker(evidence, now)
    if PREFECT_API_URL.value() is None:
        reason = "Nobody could be asked: this run has neither a terminal nor a Prefect server."
        return _answer(evidence, now, channel="nobody", approver="nobody", approved=False, reason=reason)
    return _pause(evidence, summary, knobs.timeout_hours, now)


def _certain(evidence: Evidence) -> bool:
    return evidence.verdict.decision is Decision.PROMOTE and evidence.verdict.confidence is Confidence.HIGH


def _pause(evidence: Evidence, summary: str, timeout_hours: float, now: datetime) -> Approval:
    challenger = evidence.comparison.challenger
    try:
        form = pause_flow_run(
            wait_for_input=ApprovalForm.with_initial_data(description=summary),
            timeout=int(timeout_hours * 3600),
            poll_interval=POLL_SECONDS,
            # A pause is for one challenger: a retried run must not reuse the answer given for another.
            key=f"approval-{challenger.version}-{challenger.digest[:12]}",
        )
    except FlowPauseTimeout:
        reason = f"Nobody answered within {timeout_hours:g} hours."
        return _answer(evidence, now, channel="nobody", approver="nobody", approved=False, reason=reason)
    return _answer(
        evidence,
        now,
        channel="prefect",
        approver=form.approver,
        approved=form.decision == "approve",
        reason=form.reason or f"{form.decision} without a reason",
    )


def _answer(
    evidence: Evidence,
    now: datetime,
    *,
    channel: Literal["prefect", "policy", "nobody"],
    approver: str,
    approved: bool,
    reason: str,
) -> Approval:
    return Approval(
        approved=approved,
        approver=approver,
        reason=reason,
        channel=channel,
        evidence_digest=evidence.digest,
        at=now,
    )
