"""Who serves: the ledger is the truth, and the aliases in the registry follow it."""

import logging

from ranking.errors import BundleError, StaleChampion, UnknownModel
from ranking.ledger import LedgerEntry
from ranking.results import ModelRef
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry
from tasks.succession import back_to, last_move, serving_version

logger = logging.getLogger("feedloop.champion")


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
    """Make the aliases what the ledger says, whatever a crash or a hand left; returns the ledger's head.

    A released copy that is gone is copied again; where that fails the alias stays, loudly, and going back to
    another version stays possible.

    Raises:
        AccessDenied: something has to be mended, and this identity may not.
        RegistryUnavailable: no answer.
    """
    entries = ledger.entries()
    champion = serving_version(entries)
    if champion is not None:
        aliases = registry.aliases()
        for alias, version in ((PREVIOUS, back_to(entries, champion)), (CHAMPION, champion)):
            if aliases.get(alias) != version:
                _point(registry, alias, version)
        if aliases.get(CHALLENGER) == champion:
            registry.point(CHALLENGER, None)
    return entries[-1] if entries else None


def _point(registry: Registry, alias: str, version: str | None) -> None:
    try:
        if version is not None:
            ref = registry.model(version)
            if not registry.released(ref):
                registry.release(ref)
        registry.point(alias, version)
    except (UnknownModel, BundleError) as error:
        logger.error("The alias %s cannot name version %s, which the ledger says: %s", alias, version, error)


def commit(ledger: Ledger, draft: Draft, head: LedgerEntry | None) -> LedgerEntry:
    """Append an entry that changes who serves, on what was known at ``head``.

    Entries that only record a refusal may have come in between; they change nothing that was decided on.

    Raises:
        StaleChampion: somebody else changed who serves.
        RegistryUnavailable: no answer; repeating is safe.
    """
    while True:
        try:
            return ledger.append(draft, head)
        except StaleChampion:
            entries = ledger.entries()
            if last_move(entries[head.number if head else 0 :]) is not None:
                raise
            head = entries[-1]
