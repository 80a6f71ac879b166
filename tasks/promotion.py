"""Promotion: everything that can fail, then one entry in the ledger, then what can be repeated from it.

Whether it happens at all is asked in this order: is the evidence about this challenger, does the approval
count, do verdict and policy allow it, is the champion the one that was compared, does the challenger serve.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ranking.approval import ApprovalRules, require_valid
from ranking.decision import Decision
from ranking.errors import BundleError, PromotionError, PromotionRefused, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Approval, Evidence, ModelRef, Promotion
from ranking.rollout import plan_of
from ranking.times import as_utc
from tasks import rollout_entries, rollouts
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_serving
from tasks.champion import commit, reconcile, serving
from tasks.model_card import card, entry_tags, verdict_tags
from tasks.succession import last_move, quarantined

_RECORD_TRIES = 20
_LONGEST_TAG = 1000


@dataclass(frozen=True)
class Asked:
    """A question that was answered: which challenger, on what evidence, by whom, when."""

    challenger: ModelRef
    evidence: Evidence
    approval: Approval
    now: datetime


def settle(
    registry: Registry,
    ledger: Ledger,
    *,
    challenger: ModelRef,
    evidence: Evidence,
    approval: Approval,
    rules: ApprovalRules,
    policy_digest: str,
    forced: bool,
    reason: str,
    now: datetime,
) -> Promotion:
    """Do what an answer says: promote, or record that nothing changes and why.  Takes what :func:`promote` takes.

    A refusal is an outcome and not a failure: it is written to the ledger under the name of its error.

    Raises:
        RegistryError: no answer, or the ledger cannot be trusted.
    """
    asked = Asked(challenger=challenger, evidence=evidence, approval=approval, now=now)
    if not approval.approved:
        entry = record(registry, ledger, asked, Operation.DECLINE, approval.reason)
        return _unchanged(registry, ledger, asked, entry, "not_approved")
    try:
        return promote(
            registry,
            ledger,
            challenger=challenger,
            evidence=evidence,
            approval=approval,
            rules=rules,
            policy_digest=policy_digest,
            forced=forced,
            reason=reason,
            now=now,
        )
    except (PromotionError, BundleError) as error:
        entry = record(registry, ledger, asked, Operation.REFUSE, f"{type(error).__name__}: {error}")
        return _unchanged(registry, ledger, asked, entry, "refused")


def promote(
    registry: Registry,
    ledger: Ledger,
    *,
    challenger: ModelRef,
    evidence: Evidence,
    approval: Approval,
    rules: ApprovalRules,
    policy_digest: str,
    forced: bool,
    reason: str,
    now: datetime,
) -> Promotion:
    """Make the challenger the champion.

    Repeating a call that was cut short after its ledger entry completes it.

    Args:
        registry: where both models live.
        ledger: who served so far.
        challenger: the version to promote.
        evidence: comparison and verdict; it names the champion that was compared.
        approval: somebody's yes, bound to that evidence.
        rules: whose yes counts.
        policy_digest: of the policy in force now; a verdict under another one is not acted upon.
        forced: override a verdict other than PROMOTE, or a quarantine.
        reason: why; needed when forced.
        now: time of the promotion.

    Raises:
        PromotionRefused: verdict, evidence or approval (see :mod:`ranking.approval`) do not allow it.
        StaleChampion: another version serves than the one that was compared.
        BundleError: the challenger's bytes or answers are not what was registered.
        RegistryUnavailable: no answer.  Nothing was decided, or the entry is written and the next
            :func:`reconcile` finishes.
    """
    _require_about(challenger, evidence)
    head = reconcile(registry, ledger)
    entries = ledger.entries()
    done = last_move(entries)
    if done is not None and _is_this(done, challenger, evidence):
        return _finish(registry, done, challenger, evidence, approval)
    begun = rollout_entries.begun_with(entries, approval.digest)
    if begun is not None:
        return _rolling_out(registry, begun, challenger, approval)
    require_valid(approval, evidence, rules, entries, now)
    overridden = overrides(challenger, evidence, entries, policy_digest=policy_digest, forced=forced, reason=reason)
    champion = serving(registry, ledger)
    require_champion(champion, evidence.compared_with)
    verify_serving(registry, challenger)
    draft = Draft(
        operation=Operation.PROMOTE,
        before=champion.version if champion else None,
        after=challenger.version,
        subject=challenger.version,
        digest=challenger.digest,
        evidence_digest=evidence.digest,
        forced=bool(overridden),
        actor=", ".join(approval.approvers),
        reason=reason.strip() or approval.reason.strip() or evidence.verdict.reason,
        at=now,
        approval_digest=approval.digest,
        channel=approval.channel,
        requested_by=approval.requested_by,
    )
    plan = plan_of(evidence)
    if plan is not None and not plan.at_once:
        entry = rollouts.begin(registry, ledger, draft=draft, plan=plan, model=challenger.name, head=head, now=now)
        return _rolling_out(registry, entry, challenger, approval)
    return put_in_service(registry, ledger, draft, challenger, evidence, head=head, approval=approval)


def put_in_service(
    registry: Registry,
    ledger: Ledger,
    draft: Draft,
    challenger: ModelRef,
    evidence: Evidence,
    *,
    head: LedgerEntry | None,
    approval: Approval | None = None,
) -> Promotion:
    """The change of champion itself: the released copy, the entry, the aliases.  Everything was checked before.

    Raises:
        StaleChampion: somebody else changed who serves.
        TamperedBundle: the bytes are not those that were registered.
    """
    released = draft.model_copy(update={"release_digest": registry.release(challenger)})
    entry = commit(ledger, released, head)
    reconcile(registry, ledger)
    return _finish(registry, entry, challenger, evidence, approval)


def _rolling_out(registry: Registry, entry: LedgerEntry, challenger: ModelRef, approval: Approval) -> Promotion:
    return Promotion(
        status="rolling_out",
        reason=f"Version {challenger.version} is on its way to its users (ledger entry {entry.number}): {entry.reason}",
        champion=registry.model(entry.before) if entry.before else None,
        previous=None,
        challenger=challenger,
        approval=approval,
        entry=entry,
    )


def _require_about(challenger: ModelRef, evidence: Evidence) -> None:
    about = evidence.comparison.challenger
    if (about.version, about.digest, about.package_digest) != (
        challenger.version,
        challenger.digest,
        challenger.package_digest,
    ):
        raise PromotionRefused(
            f"The evidence is about version {about.version} ({about.digest[:12]}…), not about version "
            f"{challenger.version} of {challenger.name!r} ({challenger.digest[:12]}…). Compare this challenger first."
        )


def overrides(
    challenger: ModelRef,
    evidence: Evidence,
    entries: tuple[LedgerEntry, ...],
    *,
    policy_digest: str,
    forced: bool,
    reason: str,
) -> list[str]:
    """What forbids the promotion; returned only when it is forced with a reason."""
    verdict, problems = evidence.verdict, []
    if verdict.decision is not Decision.PROMOTE and not (
        _is_test(evidence) or rollout_entries.tested(entries, evidence)
    ):
        sure = f"{verdict.confidence.value} confidence"
        problems.append(f"the verdict is {verdict.decision.value} ({sure}): {verdict.reason}")
    if evidence.policy_digest != policy_digest:
        problems.append(
            f"it was judged under the policy {evidence.policy_digest[:12]}…, and {policy_digest[:12]}… is configured "
            "now: compare it again."
        )
    failed = quarantined(entries).get(challenger.version)
    if failed is not None:
        problems.append(f"it was taken out of service by {failed.actor} on {as_utc(failed.at)}: {failed.reason}")
    if problems and not (forced and reason.strip()):
        lacking = "Forcing it needs a reason." if forced else "To promote it all the same, force it and give a reason."
        raise PromotionRefused(
            f"Version {challenger.version} of {challenger.name!r} is not promoted: {'; and '.join(problems)} {lacking}"
        )
    return problems


def _is_test(evidence: Evidence) -> bool:
    """Whether an undecided verdict is to be decided by an A/B test: it moves nobody's champion."""
    plan = plan_of(evidence)
    return evidence.verdict.decision is Decision.A_B_TEST and plan is not None and plan.strategy.kind == "ab_test"


def require_champion(champion: ModelRef | None, compared_with: str | None) -> None:
    """Refuse when another version serves than the one that was compared.

    Raises:
        StaleChampion: names both.
    """
    version = champion.version if champion else None
    if version != compared_with:
        raise StaleChampion(
            f"The challenger was compared with {_named(compared_with)}, and {_named(version)} serves now. "
            "An approval is for a pair: compare again with today's champion."
        )


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _is_this(entry: LedgerEntry, challenger: ModelRef, evidence: Evidence) -> bool:
    return (entry.operation, entry.subject, entry.before, entry.evidence_digest) == (
        Operation.PROMOTE,
        challenger.version,
        evidence.compared_with,
        evidence.digest,
    )


def _finish(
    registry: Registry, entry: LedgerEntry, challenger: ModelRef, evidence: Evidence, approval: Approval | None
) -> Promotion:
    previous = registry.model(entry.before) if entry.before else None
    tags = entry_tags("champion", entry) | verdict_tags(evidence)
    registry.annotate(challenger, tags, card(challenger, evidence, entry))
    if previous is not None:
        registry.annotate(previous, {"status": "replaced", "replaced_at": entry.at.isoformat()})
    place = f"ledger entry {entry.number}{', forced' if entry.forced else ''}"
    return Promotion(
        status="promoted",
        reason=f"Version {challenger.version} serves since {as_utc(entry.at)} ({place}): {entry.reason}",
        champion=challenger,
        previous=previous,
        challenger=challenger,
        approval=approval,
        entry=entry,
    )


def record(registry: Registry, ledger: Ledger, asked: Asked, operation: Operation, reason: str) -> LedgerEntry:
    """Record that the challenger was declined or refused, by whom and why.  The champion stays.

    Repeating it after its entry was written gives that entry.

    Raises:
        RegistryUnavailable: no answer.
    """
    challenger, approval = asked.challenger, asked.approval
    for remaining in reversed(range(_RECORD_TRIES)):
        head = reconcile(registry, ledger)
        if head is not None and head.operation is operation and head.approval_digest == approval.digest:
            return head
        champion = serving(registry, ledger)
        draft = Draft(
            operation=operation,
            before=champion.version if champion else None,
            after=champion.version if champion else None,
            subject=challenger.version,
            digest=challenger.digest,
            evidence_digest=asked.evidence.digest,
            forced=False,
            actor=", ".join(approval.approvers),
            reason=reason.strip() or "no reason given",
            at=asked.now,
            approval_digest=approval.digest,
            channel=approval.channel,
            requested_by=approval.requested_by,
        )
        try:
            entry = ledger.append(draft, head)
        except StaleChampion:
            # It is about the challenger alone, so it holds under any champion: take the next place.
            if not remaining:
                raise
            continue
        word = "declined" if operation is Operation.DECLINE else "refused"
        registry.annotate(
            challenger, {"status": word, f"{word}_by": entry.actor, f"{word}_because": entry.reason[:_LONGEST_TAG]}
        )
        return entry
    raise AssertionError("the last try returns or raises")


def _unchanged(
    registry: Registry, ledger: Ledger, asked: Asked, entry: LedgerEntry, status: Literal["not_approved", "refused"]
) -> Promotion:
    return Promotion(
        status=status,
        reason=f"{entry.actor}: {entry.reason}" if status == "not_approved" else entry.reason,
        champion=serving(registry, ledger),
        previous=None,
        challenger=asked.challenger,
        approval=asked.approval,
        entry=entry,
    )
