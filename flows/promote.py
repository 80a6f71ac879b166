"""Do what an approval says: change the pointer, or record why not."""

from datetime import datetime

from prefect import flow

from flows.outcome import outcome
from ranking.results import Approval, Promotion
from settings.loading import load
from tasks.aftermath import LEAVES_WORD
from tasks.clock import moment
from tasks.lookups import find_model
from tasks.registry import read_evidence
from tasks.resuming import RESUMABLE
from tasks.service import settle_promotion


@flow(name="promote", flow_run_name="promote-{challenger}", **RESUMABLE, **LEAVES_WORD)
def promote(
    challenger: str,
    approval: Approval,
    force: bool = False,
    reason: str = "",
    config: str | None = None,
    now: datetime | None = None,
) -> Promotion:
    """Settle an approval.  To be called by a flow that has asked for it: whoever passes an approval has approved.

    Args:
        challenger: version to make champion.
        approval: somebody's answer; it counts for the newest evidence about the challenger only.
        force: although the verdict is not PROMOTE; needs a reason.
        reason: why; it is written to the ledger.
        config: settings file; without one, feedloop.toml here.
        now: pretend it is this moment (for replays).
    """
    settings = load(config)

    target = find_model(challenger, **settings.store)
    evidence = read_evidence(target, **settings.store)
    promotion = settle_promotion(
        challenger=target,
        evidence=evidence,
        approval=approval,
        rules=settings.approval,
        policy_digest=settings.policy_digest,
        forced=force,
        reason=reason,
        now=moment(now),
        **settings.store,
    )
    return outcome(promotion)
