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
from ranking.ledger import LedgerEntry, Operation
from ranking.results import ModelRef, Rollback
from ranking.times import as_utc
from tasks import rollout_entries
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import commit, reconcile, serving
from tasks.model_card import entry_tags
from tasks.succession import last_move, quarantined, ways_back


def rollback(
    registry: Registry,
    ledger: Ledger,
    *,
    to: str | None,
    reason: str,
    actor: str,
    now: datetime,
    request: str,
    forced: bool = False,
) -> Rollback:
    """Put a version back that really served.  Nothing needs approval to go back; everything is recorded.

    Repeating a request that was cut short after its ledger entry finishes it, and does not go back once more.

    Args:
        registry: where the models live.
        ledger: who served so far.
        to: version to go back to; None for the one before, skipping those that were taken out of
            service and those whose bytes do not verify.
        reason: why; it is recorded, and the version that is left counts as failed.
        actor: who does it.
        now: time of the rollback.
        request: names this rollback.
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
    done = last_move(entries)
    if done is not None and done.operation is Operation.ROLLBACK and done.request == request:
        return _finish(registry, done)
    champion = serving(registry, ledger)
    if head is None or champion is None:
        raise RollbackError("Nothing was ever promoted by feedloop here, so there is nothing to go back to.")
    on_its_way = rollout_entries.running(entries)
    if to is None and on_its_way is not None:
        raise RollbackError(
            f"Version {on_its_way.challenger} is on its way to its users (rollout {on_its_way.id}, stage "
            f"{on_its_way.current.name!r}), and version {champion.version} is still the champion. To take the "
            "challenger away: feedloop rollout abort. To put an older champion back all the same, name it (--to)."
        )
    target, skipped = _target(registry, entries, champion, to, forced=forced)
    released = as_released(target, entries)
    draft = Draft(
        operation=Operation.ROLLBACK,
        before=champion.version,
        after=target.version,
        subject=target.version,
        digest=released.digest,
        evidence_digest=None,
        forced=forced and target.version in quarantined(entries),
        actor=actor,
        reason=" ".join((reason.strip(), *skipped)),
        at=now,
        release_digest=released.package_digest,
        request=request,
    )
    entry = commit(ledger, draft, head)
    reconcile(registry, ledger)
    return _finish(registry, entry)


def _finish(registry: Registry, entry: LedgerEntry) -> Rollback:
    target, failed = registry.model(entry.after or ""), registry.model(entry.before or "")
    registry.annotate(target, entry_tags("champion", entry))
    left = {"status": "rolled_back", "rolled_back_at": entry.at.isoformat(), "rollback_reason": entry.reason}
    registry.annotate(failed, left)
    return Rollback(champion=target, replaced=failed, reason=entry.reason, entry=entry)


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
    for version in ways_back(entries, champion.version):
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
    ever = list(dict.fromkeys(version for entry in entries for version in (entry.before, entry.after) if version))
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
    if not ref.digest and unverifiable_is_fine:
        return None
    try:
        verify_bundle(registry, as_released(ref, entries))
        if not registry.released(ref):
            # Deleted by hand: the alias needs one, and what was just verified is the same.
            registry.release(ref)
    except RegistryUnavailable:
        raise
    except (BundleError, RegistryError, StorageError) as error:
        return error
    return None


def as_released(ref: ModelRef, entries: tuple[LedgerEntry, ...]) -> ModelRef:
    """A version with the digests that the ledger recorded when it was promoted.

    The registry's own tags can be edited together with the bytes.
    """
    promoted = next(
        (entry for entry in reversed(entries) if (entry.subject, entry.operation) == (ref.version, Operation.PROMOTE)),
        None,
    )
    if promoted is None:
        return ref
    package = promoted.release_digest or ref.package_digest
    return ref.model_copy(update={"digest": promoted.digest, "package_digest": package})
