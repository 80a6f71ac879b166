"""Promotion over the two ports: the ledger is the truth, aliases and tags follow it.

The order is what makes it safe.  Everything that can fail comes before the one entry in the ledger;
everything after it can be repeated from the ledger, and :func:`reconcile` does.
"""

from datetime import datetime

from ranking.errors import PromotionRefused, StaleChampion
from ranking.results import Approval, Decision, Evidence, LedgerEntry, ModelRef, Operation, Promotion, as_utc
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from tasks.adapters.serving_check import verify_serving
from tasks.model_card import card, entry_tags, verdict_tags
from tasks.succession import back_to, quarantined, serving_version

_DECLINE_TRIES = 5


def serving(registry: Registry, ledger: Ledger) -> ModelRef | None:
    """The champion: the version that the ledger's head names.

    When the ledger never named one, a version that somebody gave the alias ``champion`` by hand is
    the champion: others are served by it already, and calling it "none" would let the first
    challenger replace it uncompared.  It is adopted for good by the next ledger entry, which
    records it as ``before``.  A version that feedloop did not register has no ``learnt`` window and
    no digest, so nothing can be compared with it; only a forced promotion replaces it.

    Raises:
        RegistryUnavailable: no answer; that is not "none".
    """
    version = serving_version(ledger.entries())
    return registry.champion() if version is None else registry.model(version)


def reconcile(registry: Registry, ledger: Ledger) -> LedgerEntry | None:
    """Make the aliases what the ledger says, whatever a crash or a hand left; returns the ledger's head."""
    entries = ledger.entries()
    champion = serving_version(entries)
    if champion is not None:
        previous = back_to(entries, champion)
        aliases = registry.aliases()
        for alias, version in ((PREVIOUS, previous), (CHAMPION, champion)):
            if aliases.get(alias) != version:
                registry.point(alias, version)
        if aliases.get(CHALLENGER) == champion:
            registry.point(CHALLENGER, None)
    return entries[-1] if entries else None


def promote(
    registry: Registry,
    ledger: Ledger,
    *,
    challenger: ModelRef,
    compared_with: str | None,
    evidence: Evidence,
    approval: Approval,
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
        compared_with: version of the champion it was compared with; None if there was none.
        evidence: comparison and verdict.
        approval: somebody's yes, bound to that evidence.
        forced: override a verdict other than PROMOTE, or a quarantine.
        reason: why; needed when forced.
        now: time of the promotion.

    Raises:
        PromotionRefused: verdict, approval or evidence do not allow it.
        StaleChampion: another version serves than the one that was compared.
        BundleError: the challenger's bytes or answers are not what was registered.
        RegistryUnavailable: no answer.  Nothing was decided, or the entry is written and the next
            :func:`reconcile` finishes.
    """
    _require_evidence(challenger, compared_with, evidence, approval)
    entries = ledger.entries()
    overridden = overrides(challenger, evidence, entries, forced=forced, reason=reason)
    head = reconcile(registry, ledger)
    if head is not None and _is_this(head, challenger, compared_with, evidence):
        return _finish(registry, head, challenger, evidence, approval)
    champion = serving(registry, ledger)
    require_champion(champion, compared_with)
    verify_serving(registry, challenger)
    draft = Draft(
        operation=Operation.PROMOTE,
        before=champion.version if champion else None,
        after=challenger.version,
        subject=challenger.version,
        digest=challenger.digest,
        evidence_digest=evidence.digest,
        forced=bool(overridden),
        actor=approval.approver,
        reason=reason.strip() or approval.reason.strip() or evidence.verdict.reason,
        at=now,
    )
    entry = ledger.append(draft, head)
    reconcile(registry, ledger)
    return _finish(registry, entry, challenger, evidence, approval)


def _require_evidence(challenger: ModelRef, compared_with: str | None, evidence: Evidence, approval: Approval) -> None:
    name = f"version {challenger.version} of {challenger.name!r}"
    about = evidence.comparison.challenger
    if (about.version, about.digest) != (challenger.version, challenger.digest):
        raise PromotionRefused(
            f"The evidence is about version {about.version} ({about.digest[:12]}…), not about {name} "
            f"({challenger.digest[:12]}…). Compare this challenger first."
        )
    against = evidence.comparison.champion
    if (against.version if against else None) != compared_with:
        raise PromotionRefused(
            f"The evidence compares {name} with {_named(against.version if against else None)}, and the promotion was "
            f"asked for against {_named(compared_with)}. Compare again."
        )
    if approval.evidence_digest != evidence.digest:
        raise PromotionRefused(
            f"The approval by {approval.approver} was given for other evidence ({approval.evidence_digest[:12]}…) than "
            f"this promotion rests on ({evidence.digest[:12]}…): something changed since. Ask for approval again."
        )
    if not approval.approved:
        raise PromotionRefused(f"{approval.approver} did not approve {name}: {approval.reason}")


def overrides(
    challenger: ModelRef, evidence: Evidence, entries: tuple[LedgerEntry, ...], *, forced: bool, reason: str
) -> list[str]:
    """What forbids the promotion; returned only when it is forced with a reason."""
    verdict, problems = evidence.verdict, []
    if verdict.decision is not Decision.PROMOTE:
        sure = f"{verdict.confidence.value} confidence"
        problems.append(f"the verdict is {verdict.decision.value} ({sure}): {verdict.reason}")
    failed = quarantined(entries).get(challenger.version)
    if failed is not None:
        problems.append(f"it was taken out of service by {failed.actor} on {as_utc(failed.at)}: {failed.reason}")
    if problems and not (forced and reason.strip()):
        lacking = "Forcing it needs a reason." if forced else "To promote it all the same, force it and give a reason."
        raise PromotionRefused(
            f"Version {challenger.version} of {challenger.name!r} is not promoted: {'; and '.join(problems)} {lacking}"
        )
    return problems


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


def _is_this(head: LedgerEntry, challenger: ModelRef, compared_with: str | None, evidence: Evidence) -> bool:
    return (head.operation, head.subject, head.before, head.evidence_digest) == (
        Operation.PROMOTE,
        challenger.version,
        compared_with,
        evidence.digest,
    )


def _finish(
    registry: Registry, entry: LedgerEntry, challenger: ModelRef, evidence: Evidence, approval: Approval
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


def decline(
    registry: Registry, ledger: Ledger, *, challenger: ModelRef, evidence: Evidence, approval: Approval, now: datetime
) -> LedgerEntry:
    """Record that the challenger was not approved, by whom and why.  The champion stays.

    Raises:
        RegistryUnavailable: no answer.
    """
    for remaining in reversed(range(_DECLINE_TRIES)):
        head = reconcile(registry, ledger)
        champion = serving(registry, ledger)
        draft = Draft(
            operation=Operation.DECLINE,
            before=champion.version if champion else None,
            after=champion.version if champion else None,
            subject=challenger.version,
            digest=challenger.digest,
            evidence_digest=evidence.digest,
            forced=False,
            actor=approval.approver,
            reason=approval.reason.strip() or "no reason given",
            at=now,
        )
        try:
            entry = ledger.append(draft, head)
        except StaleChampion:
            # It is about the challenger alone, so it holds under any champion: take the next place.
            if not remaining:
                raise
            continue
        tags = {"status": "declined", "declined_by": entry.actor, "decline_reason": entry.reason}
        registry.annotate(challenger, tags)
        return entry
    raise AssertionError("the last try returns or raises")
