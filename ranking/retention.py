"""What may be deleted of a model's versions: nothing that serves, could be gone back to, or is being decided on.

Pure: the ledger, the versions and the limits are arguments.  A version that the ledger names is never deleted:
its record and its evidence stay for ever, and at most its bytes go.
"""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field, NonNegativeInt, PositiveInt

from ranking.ledger import LedgerEntry
from ranking.times import as_utc
from ranking.values import Knobs, Value


class RetentionKnobs(Knobs):
    """How much is kept."""

    served: PositiveInt = Field(
        default=10, description="The last so many versions that served keep their bytes, so one can go back to them."
    )
    challengers: NonNegativeInt = Field(
        default=20, description="The newest so many versions keep their bytes, whether they ever served or not."
    )
    decisions: PositiveInt = Field(
        default=2_000,
        description="The arbiter's last so many decisions are kept; a check a day makes 365 a year, and one an hour "
        "8,760.",
    )


class Fate(StrEnum):
    """What happens to a version."""

    KEEP = "keep"
    DROP_BYTES = "drop bytes"
    DELETE = "delete"


class Keeping(Value):
    """A version's fate, with the reason."""

    version: str
    fate: Fate
    reason: str


def plan(
    versions: Sequence[str], entries: Sequence[LedgerEntry], aliases: dict[str, str], knobs: RetentionKnobs
) -> tuple[Keeping, ...]:
    """The fate of every version.

    Args:
        versions: all versions, oldest first.
        entries: the ledger, oldest first.
        aliases: alias to version; what has a name is kept.
        knobs: how much is kept.
    """
    served = _last_served(entries)[: knobs.served]
    newest = set(versions[len(versions) - min(knobs.challengers, len(versions)) :])
    named = {version: alias for alias, version in aliases.items()}
    return tuple(_fate(version, entries, served, newest, named) for version in versions)


def _fate(
    version: str, entries: Sequence[LedgerEntry], served: list[str], newest: set[str], named: dict[str, str]
) -> Keeping:
    if version in named:
        return Keeping(version=version, fate=Fate.KEEP, reason=f"it is the {named[version]}")
    if version in served:
        place = served.index(version) + 1
        return Keeping(version=version, fate=Fate.KEEP, reason=f"it is number {place} of the versions served last")
    if version in newest:
        return Keeping(version=version, fate=Fate.KEEP, reason=f"it is one of the {len(newest)} newest")
    naming = [entry for entry in entries if version in (entry.subject, entry.before, entry.after)]
    if naming:
        last = naming[-1]
        reason = f"ledger entry {last.number} ({last.operation}, {as_utc(last.at)}) names it: its record stays"
        return Keeping(version=version, fate=Fate.DROP_BYTES, reason=reason)
    return Keeping(version=version, fate=Fate.DELETE, reason="it never served and nothing was decided about it")


def _last_served(entries: Sequence[LedgerEntry]) -> list[str]:
    """Versions that served, the last one first."""
    found: list[str] = []
    for entry in reversed(entries):
        found += [version for version in (entry.after, entry.before) if version and entry.operation.moves]
    return list(dict.fromkeys(found))
