"""Make a compared challenger the champion: read the evidence, ask, then change the pointer."""

from datetime import datetime
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.approval import request_approval
from ranking.results import Promotion
from settings.loading import load
from tasks.clock import moment
from tasks.registry import apply_promotion, find_model, read_evidence, record_decline, require_promotable
from tasks.reports import evidence_markdown


@flow(name="promote", flow_run_name="promote-{challenger}")
def promote(
    challenger: Annotated[str, Field(description="Version or alias of the model to make champion.")],
    force: Annotated[bool, Field(description="Although the verdict is not PROMOTE; needs a reason.")] = False,
    reason: Annotated[str, Field(description="Why; it is written to the ledger.")] = "",
    config: Annotated[str | None, Field(description="Settings file; without one, feedloop.toml here.")] = None,
    now: Annotated[datetime | None, Field(description="Pretend it is this moment (for replays).")] = None,
) -> Promotion:
    """Promote a challenger, if its verdict allows it and somebody approves.  Otherwise the champion stays."""
    settings = load(config)
    at = moment(now)

    target = find_model(challenger, **settings.store)
    evidence = read_evidence(target, **settings.store)
    require_promotable(target, evidence, forced=force, reason=reason, **settings.store)
    approval = request_approval(
        evidence, summary=evidence_markdown(evidence), knobs=settings.approval, forced=force, now=at
    )
    if not approval.approved:
        return record_decline(challenger=target, evidence=evidence, approval=approval, now=at, **settings.store)
    return apply_promotion(
        challenger=target,
        compared_with=evidence.compared_with,
        evidence=evidence,
        approval=approval,
        forced=force,
        reason=reason,
        now=at,
        **settings.store,
    )
