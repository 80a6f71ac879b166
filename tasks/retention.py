"""Delete what nobody needs any more, and refuse to delete what somebody might."""

from ranking.errors import RetentionError
from ranking.retention import Fate, Keeping, RetentionKnobs, plan
from tasks.adapters.ledger import Ledger
from tasks.adapters.registry import Registry
from tasks.champion import reconcile


def prune(
    registry: Registry, ledger: Ledger, knobs: RetentionKnobs, *, only: str | None = None, dry_run: bool
) -> tuple[Keeping, ...]:
    """Apply the retention plan.

    Args:
        registry: where the models live.
        ledger: who served.
        knobs: how much is kept.
        only: delete just this version, if it may be.
        dry_run: only say what would happen.

    Returns:
        The fate of every version that was looked at.

    Raises:
        RetentionError: ``only`` names a version that must be kept.
        UnknownModel: there is no such version.
        RegistryUnavailable: no answer; repeating is safe.
    """
    reconcile(registry, ledger)
    refs = {ref.version: ref for ref in registry.versions()}
    fates = plan(tuple(refs), ledger.entries(), registry.aliases(), knobs)
    if only is not None:
        fates = (_permitted(registry.model(only).version, fates),)
    for keeping in fates:
        if dry_run or keeping.fate is Fate.KEEP:
            continue
        registry.remove(refs[keeping.version], keep_record=keeping.fate is Fate.DROP_BYTES)
    return fates


def _permitted(version: str, fates: tuple[Keeping, ...]) -> Keeping:
    found = next(keeping for keeping in fates if keeping.version == version)
    if found.fate is Fate.KEEP:
        raise RetentionError(f"Version {version} is not deleted: {found.reason}. See [retention] in the settings.")
    return found
