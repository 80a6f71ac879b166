"""Propose a compared challenger for promotion: read the evidence, check that it may be promoted, ask, settle."""

from datetime import datetime

from prefect import flow

from flows.approval import request_approval
from flows.outcome import outcome
from flows.promote import promote
from ranking.results import Promotion
from settings.loading import load
from settings.rollout import StrategyName
from tasks.aftermath import LEAVES_WORD
from tasks.lookups import find_model
from tasks.registry import plan_release, read_evidence
from tasks.resuming import RESUMABLE
from tasks.service import require_promotable


@flow(name="propose", flow_run_name="propose-{challenger}", **RESUMABLE, **LEAVES_WORD)
def propose(
    challenger: str,
    strategy: StrategyName | None = None,
    force: bool = False,
    reason: str = "",
    requested_by: str | None = None,
    config: str | None = None,
    now: datetime | None = None,
) -> Promotion:
    """Promote a challenger, if its verdict allows it and somebody approves.  Otherwise the champion stays.

    Args:
        challenger: version or alias of the model to make champion.
        strategy: how it reaches its users; without one as configured, at once for the winner of an A/B test.
        force: although the verdict is not PROMOTE; needs a reason.
        reason: why; it is written to the ledger.
        requested_by: your name; with approval.requester_may_approve = false somebody else has to approve.
        config: settings file; without one, feedloop.toml here.
        now: pretend it is this moment (for replays).
    """
    settings = load(config)

    target = find_model(challenger, **settings.store)
    known = read_evidence(target, **settings.store)
    evidence = plan_release(target, known, settings.rollout.proposed(known, strategy), **settings.store)
    require_promotable(
        target, evidence, policy_digest=settings.policy_digest, forced=force, reason=reason, **settings.store
    )
    approval = request_approval(evidence, settings=settings, forced=force, requested_by=requested_by, now=now)
    return outcome(promote(target.version, approval, force=force, reason=reason, config=config, now=now))
