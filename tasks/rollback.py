"""Going back: to a version that really served, verified before the pointer moves."""

from datetime import datetime

from ranking.errors import (
    BundleError,
    FeedloopError,
    RegistryError,
    RegistryUnavailable,
    RollbackError,
    StorageError,
    UnknownModel,
)
from ranking.results import LedgerEntry, ModelRef, Operation, Rollback, as_utc
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_bundle
from tasks.model_card import entry_tags
from tasks.promotion import reconcile, serving
from tasks.succession import quarantined, served


def rollback(
    registry: Registry,
    ledger: Ledger,
    *,
    to: str | None,
    reason: str,
    actor: str,
    now: datetime,
    forced: bool = False,
) -> Rollback:
    """Put a version back that really served.  Nothing needs approval to go back; everything is recorded.

    Args:
        registry: where the models live.
        ledger: who served so far.
        to: version to go back to; None for the one before, skipping those that were taken out of
            service and those whose bytes do not verify.
        reason: why; it is recorded, and the version that is left counts as failed.
        actor: who does it.
        now: time of the rollback.
        forced: go back even to a version that was itself rolled back from.

    Raises:
        RollbackError: there is nothing healthy to go back to, or ``to`` cannot be gone back to.
        StaleChampion: somebody else changed the champion at the same moment.
        RegistryUnavailable: no answer.
    """
    if not reason.strip():
        raise RollbackError("A rollback needs a reason: it is what the next person reads. Give one.")
    head = reconcile(registry, ledger)
    entries = ledger.entries()
    champion = serving(registry, ledger)
    if head is None or champion is None:
        raise RollbackError("Nothing was ever promoted by feedloop here, so there is nothing to go back to.")
    target, skipped = _target(registry, entries, champion, to, forced=forced)
    draft = Draft(
        operation=Operation.ROLLBACK,
        before=champion.version,
        after=target.version,
        subject=target.version,
        digest=target.digest,
        evidence_digest=None,
        forced=forced and target.version in quarantined(entries),
        actor=actor,
        reason=" ".join((reason.strip(), *skipped)),
        at=now,
    )
    entry = ledger.append(draft, head)
    reconcile(registry, ledger)
    registry.annotate(target, entry_tags("champion", entry))
    registry.annotate(champion, {"status": "rolled_back", "rolled_back_at": now.isoformat(), "rollback_reason": reason})
    return Rollback(champion=target, replaced=champion, reason=entry.reason, entry=entry)


def _target(
    registry: Registry, entries: tuple[LedgerEntry, ...], champion: ModelRef, to: str | None, *, forced: bool
) -> tuple[ModelRef, list[str]]:
    """The version to go back to, and a sentence for each one that had to be skipped."""
    bad = quarantined(entries)
    if to is not None:
        target = registry.model(to)
        _require_served(target, champion, entries, forced=forced)
        problem = _trouble(registry, target, entries, unverifiable_is_fine=forced)
        if problem is not None:
            raise RollbackError(f"Version {target.version} cannot be put back: {problem}") from problem
        return target, []
    skipped: list[str] = []
    for version in dict.fromkeys(reversed(served(entries))):
        if version == champion.version or version in bad:
            continue
        try:
            target = registry.model(version)
        except UnknownModel:
            skipped.append(f"(Version {version} was skipped: it was deleted.)")
            continue
        problem = _trouble(registry, target, entries)
        if problem is None:
            return target, skipped
        skipped.append(f"(Version {version} was skipped: {problem})")
    failed = f" Taken out of service: version {', '.join(sorted(bad))}." if bad else ""
    raise RollbackError(
        f"No healthy version served before version {champion.version}, which stays champion.{failed} "
        f"{' '.join(skipped)} Name one with --to, or promote another."
    )


def _require_served(target: ModelRef, champion: ModelRef, entries: tuple[LedgerEntry, ...], *, forced: bool) -> None:
    if target.version == champion.version:
        raise RollbackError(f"Version {target.version} serves already; there is nothing to do.")
    ever = sorted({version for entry in entries for version in (entry.before, entry.after) if version}, key=int)
    if target.version not in ever:
        raise RollbackError(
            f"Version {target.version} never served, so it cannot be gone back to; promote it instead. "
            f"Served so far: {', '.join(ever)}."
        )
    failed = quarantined(entries).get(target.version)
    if failed is not None and not forced:
        raise RollbackError(
            f"Version {target.version} was itself taken out of service by {failed.actor} on {as_utc(failed.at)}: "
            f"{failed.reason} Force it if it shall serve again."
        )


def _trouble(
    registry: Registry, ref: ModelRef, entries: tuple[LedgerEntry, ...], *, unverifiable_is_fine: bool = False
) -> FeedloopError | None:
    """Why the version cannot serve, judged by the digest that the ledger recorded when it was promoted."""
    recorded = next((entry.digest for entry in reversed(entries) if entry.subject == ref.version), ref.digest)
    if not recorded and unverifiable_is_fine:
        return None
    try:
        verify_bundle(registry, ref.model_copy(update={"digest": recorded}))
    except RegistryUnavailable:
        raise
    except (BundleError, RegistryError, StorageError) as error:
        return error
    return None
