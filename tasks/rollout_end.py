"""What a completed rollout asks for: a promotion, or somebody's approval of a won A/B test.  No Prefect here."""

import logging
from datetime import datetime

from ranking import rollout_changes
from ranking.errors import BundleError, PromotionError, PromotionRefused
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Evidence, ModelRef, Promotion
from ranking.rollout import Action, RolloutStatus
from ranking.strategies import AbStage
from ranking.times import as_utc
from ranking.trial import Trial
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_serving
from tasks.champion import reconcile
from tasks.promotion import put_in_service
from tasks.rollout_entries import history, running, write_step
from tasks.routing import rollout_of
from tasks.succession import quarantined

logger = logging.getLogger("feedloop.rollouts")


def finish(
    registry: Registry, ledger: Ledger, *, policy_digest: str, actor: str, now: datetime
) -> Promotion | Evidence | None:
    """Do what a completed rollout asks for.

    The challenger of a shadow or a canary was approved before it began, so it becomes champion now.  An A/B test was
    approved as a test: its winner comes back as evidence, with the trial in it, to be approved.

    Args:
        registry: where both models live.
        ledger: keeps the state.
        policy_digest: of the policy in force now.
        actor: who ticks.
        now: the time.

    Returns:
        The promotion, the evidence to ask about, or ``None`` when nothing is completed.

    Raises:
        RegistryUnavailable: no answer; repeating is safe.
    """
    entries = ledger.entries()
    rollout = running(entries)
    if rollout is None or rollout.status is not RolloutStatus.COMPLETED:
        return None
    steps = history(entries, rollout)
    challenger = _approved(registry, steps[0])
    evidence = registry.evidence(challenger, steps[0].evidence_digest)
    try:
        if evidence is None:
            raise PromotionRefused(
                f"The evidence {(steps[0].evidence_digest or 'none')[:12]}… that rollout {rollout.id} was approved on "
                "is gone from the registry. Compare the challenger again."
            )
        if isinstance(rollout.current, AbStage):
            return _won(registry, entries, challenger, evidence, steps)
        return _promoted(registry, ledger, challenger, evidence, steps, policy_digest, now)
    except (PromotionError, BundleError) as error:
        reason = f"{type(error).__name__}: {error}"
        logger.error("Rollout %s is completed and its challenger cannot be promoted: %s", rollout.id, reason)
        given_up = rollout_changes.withdraw(rollout, actor=actor, reason=reason, now=now)
        head = reconcile(registry, ledger)
        entry = write_step(registry, ledger, head, given_up, actor=actor, reason=f"withdraw: {reason}", now=now)
        return Promotion(
            status="refused",
            reason=reason,
            champion=registry.model(rollout.champion),
            previous=None,
            challenger=challenger,
            approval=None,
            entry=entry,
        )


def _approved(registry: Registry, begun: LedgerEntry) -> ModelRef:
    """The challenger with the digest that was approved, whatever the registry's tags say since."""
    return registry.model(begun.subject).model_copy(update={"digest": begun.digest})


def _won(
    registry: Registry,
    entries: tuple[LedgerEntry, ...],
    challenger: ModelRef,
    evidence: Evidence,
    steps: tuple[LedgerEntry, ...],
) -> Evidence:
    """The evidence of a won A/B test, recorded for whoever is asked about it.

    Raises:
        PromotionRefused: somebody was asked and said no.
    """
    trial = Trial(
        rollout=rollout_of(steps[-1]).id,
        verdict="PROMOTE_B",
        reason=steps[-1].reason.removeprefix(f"{Action.COMPLETE}: "),
        began=steps[0].at,
        ended=steps[-1].at,
    )
    told = evidence.model_copy(update={"trial": trial, "plan": {}})
    answer = next((entry for entry in entries if entry.evidence_digest == told.digest), None)
    if answer is not None:
        raise PromotionRefused(f"Its promotion was asked for: {answer.operation} by {answer.actor}: {answer.reason}")
    if told.digest not in registry.evidence_digests(challenger):
        registry.record(challenger, told)
    return told


def _promoted(
    registry: Registry,
    ledger: Ledger,
    challenger: ModelRef,
    evidence: Evidence,
    steps: tuple[LedgerEntry, ...],
    policy_digest: str,
    now: datetime,
) -> Promotion:
    begun, entries = steps[0], ledger.entries()
    failed = quarantined(entries).get(challenger.version)
    if failed is not None:
        raise PromotionRefused(f"It was taken out of service on {as_utc(failed.at)}: {failed.reason}")
    if evidence.policy_digest != policy_digest and not begun.forced:
        raise PromotionRefused(
            f"It was approved under the policy {evidence.policy_digest[:12]}…, and {policy_digest[:12]}… is configured "
            "now: compare it again."
        )
    verify_serving(registry, challenger)
    draft = Draft(
        operation=Operation.PROMOTE,
        before=begun.before,
        after=challenger.version,
        subject=challenger.version,
        digest=challenger.digest,
        evidence_digest=evidence.digest,
        forced=begun.forced,
        actor=begun.actor,
        reason=f"Its rollout is completed. {steps[-1].reason}",
        at=now,
        approval_digest=begun.approval_digest,
        channel=begun.channel,
        requested_by=begun.requested_by,
    )
    return put_in_service(registry, ledger, draft, challenger, evidence, head=entries[-1])
