"""Ask whether a challenger may become champion: a policy, somebody at hand, or whoever answers in Prefect.

Whoever is asked, the answer is an ``Approval`` bound to the digest of the evidence shown.  No answer is no.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Literal

from prefect.settings import PREFECT_API_URL

from ranking.decision import Confidence, Decision
from ranking.results import Approval, Evidence
from settings.model import Settings
from tasks.clock import moment
from tasks.inquiry import answered_before, inquire

Asker = Callable[[Evidence, datetime], Approval]
"""Somebody at hand: sees the evidence and answers now."""

_asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


@contextmanager
def answered_by(asker: Asker) -> Iterator[None]:
    """Within the block, promotions ask ``asker`` instead of waiting for an answer in Prefect."""
    token = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(token)


def request_approval(
    evidence: Evidence, *, settings: Settings, forced: bool, requested_by: str | None, now: datetime | None
) -> Approval:
    """Get an answer for this pair of models.  To be called by the root flow run, outside of tasks.

    Args:
        evidence: the comparison and the verdict; the answer is bound to their digest.
        settings: the approval policy, and where the models are.
        forced: a forced promotion is never waved through by policy.
        requested_by: who wants the promotion; None when that is not known.
        now: pretend that question and answer happen at this moment; without it, the clock's time.

    Returns:
        The approval; ``approved`` is False when it was refused, timed out, or nobody could be asked.

    Raises:
        prefect.exceptions.Pause: this run of a deployment ends here and goes on when it is answered.
    """
    asker, at = _asker.get(), moment.fn(now)
    on_server = asker is None and bool(PREFECT_API_URL.value())
    if settings.approval.mode == "auto" and not forced and _certain(evidence):
        # Switched to auto while the run waited: what a person has rejected stays rejected.
        said = answered_before(evidence, now) if on_server else None
        if said is not None and not said.approved:
            return said
        return _without_asking(evidence, at, requested_by, "policy", "PROMOTE, high")
    if asker is not None:
        return asker(evidence, at).model_copy(update={"requested_by": requested_by})
    if not on_server:
        reason = "Nobody could be asked: this run has neither a terminal nor a Prefect server."
        return _without_asking(evidence, at, requested_by, "nobody", reason)
    return inquire(evidence, settings=settings, forced=forced, requested_by=requested_by, now=now)


def _certain(evidence: Evidence) -> bool:
    return evidence.verdict.decision is Decision.PROMOTE and evidence.verdict.confidence is Confidence.HIGH


def _without_asking(
    evidence: Evidence, at: datetime, requested_by: str | None, channel: Literal["policy", "nobody"], reason: str
) -> Approval:
    policy = channel == "policy"
    return Approval(
        approved=policy,
        approver="approval.mode = auto" if policy else "nobody",
        reason=reason,
        channel=channel,
        evidence_digest=evidence.digest,
        requested_by=requested_by,
        at=at,
    )
