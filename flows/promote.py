"""Make a compared challenger the champion: read the evidence, ask, then change the pointer."""

from datetime import datetime

from prefect import flow

from flows.approval import request_approval
from ranking.results import Promotion
from settings.loading import load
from tasks.clock import moment
from tasks.registry import find_model, read_evidence, require_promotable, settle_promotion
from tasks.reports import evidence_markdown


@flow(name="promote", flow_run_name="promote-{challenger}")
def promote(
    challenger: str,
    force: bool = False,
    reason: str = "",
    config: str | None = None,
    now: datetime | None = None,
) -> Promotion:
    """Promote a challenger, if its verdict allows it and somebody approves.  Otherwise the champion stays.

    Args:
        challenger: version or alias of the model to make champion.
        force: although the verdict is not PROMOTE; needs a reason.
        reason: why; it is written to the ledger.
        config: settings file; without one, feedloop.toml here.
        now: pretend it is this moment (for replays).
    """
    settings = load(config)
    at = moment(now)

    target = find_model(challenger, **settings.store)
    evidence = read_evidence(target, **settings.store)
    require_promotable(
        target,
        evidence,
        policy_digest=settings.policy_digest,
        forced=force,
        reason=reason,
        **settings.store,
    )
    approval = request_approval(
        evidence, summary=evidence_markdown(evidence), knobs=settings.approval, forced=force, now=at
    )
    return settle_promotion(
        challenger=target,
        evidence=evidence,
        approval=approval,
        rules=settings.approval,
        policy_digest=settings.policy_digest,
        forced=force,
        reason=reason,
        now=at,
        **settings.store,
    )
