"""Changing who serves: thin tasks over the registry and the ledger, which tell Prefect what was done."""

import logging
import uuid
from datetime import datetime

from prefect import runtime, task

from ranking.approval import ApprovalRules
from ranking.errors import AccessDenied
from ranking.ledger import LedgerEntry
from ranking.results import Approval, Evidence, ModelRef, Promotion, Rollback
from settings.effects import RegistryKnobs
from tasks import promotable, promotion
from tasks.champion import reconcile, serving
from tasks.events import emit_entry
from tasks.reports import publish_entry
from tasks.resuming import RESUMED
from tasks.retries import RETRY
from tasks.rollback import rollback
from tasks.stores import open_both

logger = logging.getLogger("feedloop.service")


@task(name="current champion", timeout_seconds=300, **RETRY.options, **RESUMED)
def current_champion(registry: RegistryKnobs, workspace: str) -> ModelRef | None:
    """Who serves now; whatever a crash left half done is finished first.

    Returns:
        The champion; None only when registry and ledger answered that there never was one.

    Raises:
        RegistryUnavailable: no answer.
    """
    models, ledger = open_both(registry, workspace)
    try:
        reconcile(models, ledger)
    except AccessDenied as error:
        # A trainer may read who serves and not change it; the promoter's next run mends the aliases.
        logger.warning("The aliases differ from the ledger and stay so: %s", error)
    return serving(models, ledger)


@task(name="require promotable", timeout_seconds=300, **RETRY.options, **RESUMED)
def require_promotable(
    challenger: ModelRef,
    evidence: Evidence,
    *,
    policy_digest: str,
    forced: bool,
    reason: str,
    registry: RegistryKnobs,
    workspace: str,
) -> None:
    """Refuse before anybody is asked what would be refused afterwards.

    Raises:
        PromotionRefused: the verdict is not PROMOTE, the policy was changed since, or the version was taken out of
            service, and it is not forced with a reason.
        StaleChampion: another version serves than the one it was compared with.
    """
    models, ledger = open_both(registry, workspace)
    promotable.overrides(
        challenger, evidence, ledger.entries(), policy_digest=policy_digest, forced=forced, reason=reason
    )
    champion = serving(models, ledger)
    # A version that serves already is a repeated promotion, which is finished and not refused.
    if champion is None or champion.version != challenger.version:
        promotable.require_champion(champion, evidence.compared_with)


@task(name="settle promotion", timeout_seconds=900, **RETRY.options, **RESUMED)
def settle_promotion(
    *,
    challenger: ModelRef,
    evidence: Evidence,
    approval: Approval,
    rules: ApprovalRules,
    policy_digest: str,
    forced: bool,
    reason: str,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
) -> Promotion:
    """Promote an approved challenger, or record why not; see :func:`tasks.promotion.settle`."""
    models, ledger = open_both(registry, workspace)
    done = promotion.settle(
        models,
        ledger,
        promotion.Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval,
            rules=rules,
            policy_digest=policy_digest,
            forced=forced,
            reason=reason,
            now=now,
        ),
    )
    logger.info("%s: %s", done.status, done.reason)
    _tell(done.challenger.name, done.entry)
    return done


@task(name="apply rollback", timeout_seconds=600, **RETRY.options, **RESUMED)
def apply_rollback(
    *,
    to: str | None,
    reason: str,
    actor: str,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
    forced: bool = False,
) -> Rollback:
    """Put an earlier champion back; see :func:`tasks.rollback.rollback`."""
    models, ledger = open_both(registry, workspace)
    request = str(runtime.flow_run.id or uuid.uuid4())
    done = rollback(models, ledger, to=to, reason=reason, actor=actor, now=now, request=request, forced=forced)
    logger.warning("Rolled back from version %s to %s: %s", done.replaced.version, done.champion.version, done.reason)
    _tell(done.champion.name, done.entry)
    return done


def _tell(model: str, entry: LedgerEntry | None) -> None:
    """Show in Prefect what the ledger says since; all of it can be told again from there."""
    if entry is not None:
        emit_entry(model, entry)
        publish_entry(model, entry)
