"""Promotion: everything that can fail, then one entry in the ledger, then what can be repeated from it.

Whether it happens at all is asked in this order: is the evidence about this challenger, does the approval
count, do verdict and policy allow it, is the champion the one that was compared, does the challenger serve.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ranking.approval import ApprovalRules, require_valid
from ranking.errors import BundleError, PromotionError, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Approval, Evidence, ModelRef, Promotion
from ranking.rollout import plan_of
from ranking.times import as_utc
from tasks import rollouts
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_serving
from tasks.champion import commit, reconcile, serving
from tasks.model_card import card, entry_tags, verdict_tags
from tasks.promotable import overrides, require_about, require_champion
from tasks.rollout_entries import begun_with
from tasks.succession import last_move

_RECORD_TRIES = 20
_LONGEST_TAG = 1000


@dataclass(frozen=True)
class Proposal:
    """A promotion that somebody answered: yes or no, on what evidence, under which rules.

    Attributes:
        challenger: the version to promote.
        evidence: comparison and verdict; it names the champion that was compared.
        approval: somebody's answer, bound to that evidence.
        rules: whose yes counts.
        policy_digest: of the policy in force now; a verdict under another one is not acted upon.
        now: time of the promotion.
        forced: override a verdict other than PROMOTE, or a quarantine.
        reason: why; needed when forced.
    """

    challenger: ModelRef
    evidence: Evidence
    approval: Approval
    rules: ApprovalRules
    policy_digest: str
    now: datetime
    forced: bool = False
    reason: str = ""


def settle(registry: Registry, ledger: Ledger, proposal: Proposal) -> Promotion:
    """Do what an answer says: promote, or record that nothing changes and why.

    A refusal is an outcome and not a failure: it is written to the ledger under the name of its error.

    Raises:
        RegistryError: no answer, or the ledger cannot be trusted.
    """
    if not proposal.approval.approved:
        entry = record(registry, ledger, proposal, Operation.DECLINE, proposal.approval.reason)
        return _unchanged(registry, ledger, proposal, entry, "not_approved")
    try:
        return promote(registry, ledger, proposal)
    except (PromotionError, BundleError) as error:
        entry = record(registry, ledger, proposal, Operation.REFUSE, f"{type(error).__name__}: {error}")
        return _unchanged(registry, ledger, proposal, entry, "refused")


def promote(registry: Registry, ledger: Ledger, proposal: Proposal) -> Promotion:
    """Make the challenger the champion.

    Repeating a call that was cut short after its ledger entry completes it.

    Args:
        registry: where both models live.
        ledger: who served so far.
        proposal: what to do, and the yes to it.

    Raises:
        PromotionRefused: verdict, evidence or approval (see :mod:`ranking.approval`) do not allow it.
        StaleChampion: another version serves than the one that was compared.
        BundleError: the challenger's bytes or answers are not what was registered.
        RegistryUnavailable: no answer.  Nothing was decided, or the entry is written and the next
            :func:`reconcile` finishes.
    """
    challenger, evidence, approval = proposal.challenger, proposal.evidence, proposal.approval
    require_about(challenger, evidence)
    head = reconcile(registry, ledger)
    entries = ledger.entries()
    done = last_move(entries)
    if done is not None and _is_this(done, challenger, evidence):
        return _finish(registry, done, challenger, evidence, approval)
    begun = begun_with(entries, approval.digest)
    if begun is not None:
        return _rolling_out(registry, begun, challenger, approval)
    require_valid(approval, evidence, proposal.rules, entries, proposal.now)
    overridden = overrides(
        challenger,
        evidence,
        entries,
        policy_digest=proposal.policy_digest,
        forced=proposal.forced,
        reason=proposal.reason,
    )
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
        reason=proposal.reason.strip() or approval.reason.strip() or evidence.verdict.reason,
        at=proposal.now,
        approval_digest=approval.digest,
        channel=approval.channel,
        requested_by=approval.requested_by,
    )
    plan = plan_of(evidence)
    if plan is not None and not plan.at_once:
        entry = rollouts.begin(
            registry, ledger, draft=draft, plan=plan, model=challenger.name, head=head, now=proposal.now
        )
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


def record(registry: Registry, ledger: Ledger, proposal: Proposal, operation: Operation, reason: str) -> LedgerEntry:
    """Record that the challenger was declined or refused, by whom and why.  The champion stays.

    Repeating it after its entry was written gives that entry.

    Raises:
        RegistryUnavailable: no answer.
    """
    challenger, approval = proposal.challenger, proposal.approval
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
            evidence_digest=proposal.evidence.digest,
            forced=False,
            actor=", ".join(approval.approvers),
            reason=reason.strip() or "no reason given",
            at=proposal.now,
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
    registry: Registry,
    ledger: Ledger,
    proposal: Proposal,
    entry: LedgerEntry,
    status: Literal["not_approved", "refused"],
) -> Promotion:
    return Promotion(
        status=status,
        reason=f"{entry.actor}: {entry.reason}" if status == "not_approved" else entry.reason,
        champion=serving(registry, ledger),
        previous=None,
        challenger=proposal.challenger,
        approval=proposal.approval,
        entry=entry,
    )
