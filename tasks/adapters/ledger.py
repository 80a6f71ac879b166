"""The ledger: the append-only, hash-chained history of who serves.  Its head is the truth.

MLflow's aliases have no compare-and-set: of four racers all "win".  A ledger lies where a place can
be written once: ``mlflow_ledger`` keeps it in MLflow, ``sql_ledger`` in a table of PostgreSQL.
Importing this module imports neither; :func:`open_ledger` does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import AwareDatetime, JsonValue, ValidationError

from ranking.errors import LedgerBroken, RegistryError, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.values import Value, canonical_json

LONGEST_ENTRY = 6000
"""Characters of one entry; MLflow cuts longer parameters silently."""


class Draft(Value):
    """An entry before it has a number and a place in the chain."""

    operation: Operation
    before: str | None
    after: str | None
    subject: str
    digest: str
    evidence_digest: str | None
    forced: bool
    actor: str
    reason: str
    at: AwareDatetime
    release_digest: str | None = None
    approval_digest: str | None = None
    channel: str | None = None
    requested_by: str | None = None
    request: str | None = None
    rollout: dict[str, JsonValue] | None = None


class Stored(Value):
    """How an entry is kept: with its own hash, so that an edit of the very last one shows too."""

    entry: LedgerEntry
    hash: str


class Ledger(Protocol):
    """An append-only history with one writer per place."""

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries, oldest first.  Raises LedgerBroken when one was edited or removed."""

    def head(self) -> LedgerEntry | None:
        """The newest entry; None when nothing was ever recorded."""

    def append(self, draft: Draft, expected_head: LedgerEntry | None) -> LedgerEntry:
        """Add ``draft`` right after ``expected_head``.  This is the commit of a promotion.

        Repeating a call that succeeded gives the same entry again and adds nothing.

        Raises:
            StaleChampion: somebody else wrote that place first.
            RegistryError: the entry is longer than :data:`LONGEST_ENTRY`.
            RegistryUnavailable: no answer; whether it was written is not known, and repeating is safe.
        """

    def verify(self) -> tuple[str, ...]:
        """Every break of the chain in words, naming the entry; empty when it is intact."""


def chained(draft: Draft, head: LedgerEntry | None) -> LedgerEntry:
    """``draft`` with the number and the hash that come after ``head``."""
    return LedgerEntry(
        number=head.number + 1 if head else 1,
        previous_hash=head.hash if head else "",
        **{name: getattr(draft, name) for name in Draft.model_fields},
    )


def written(entry: LedgerEntry) -> str:
    """The one text of an entry.

    Raises:
        RegistryError: it is longer than :data:`LONGEST_ENTRY`.
    """
    text = canonical_json(Stored(entry=entry, hash=entry.hash))
    if len(text) > LONGEST_ENTRY:
        spare = LONGEST_ENTRY - (len(text) - len(entry.reason))
        raise RegistryError(
            f"The reason has {len(entry.reason)} characters, and a ledger entry has room for {max(spare, 0)}. "
            "Shorten it; the evidence is kept in full beside the model."
        )
    return text


def read_chain(texts: Sequence[tuple[int, str]]) -> tuple[list[LedgerEntry], list[str]]:
    """Entries and breaks of stored ``(number, text)`` pairs, sorted by number.

    A break names the entry that was changed: the one whose own hash is wrong, or the one that its
    successor remembers differently.
    """
    entries: list[LedgerEntry] = []
    breaks: list[str] = []
    for place, (number, text) in enumerate(texts, start=1):
        if number != place:
            breaks.append(f"entry {place} is missing")
            break
        try:
            stored = Stored.model_validate_json(text)
        except ValidationError:
            breaks.append(f"entry {number} cannot be read")
            break
        entry = stored.entry
        if entry.number != number or stored.hash != entry.hash:
            breaks.append(f"entry {number} was edited: its content does not match its hash {stored.hash[:12]}…")
        if entry.previous_hash != (entries[-1].hash if entries else ""):
            breaks.append(f"entry {number - 1} was edited: entry {number} remembers it differently")
        entries.append(entry)
    return entries, breaks


def trusted(texts: Sequence[tuple[int, str]], place: str) -> tuple[LedgerEntry, ...]:
    """The entries of stored ``(number, text)`` pairs, sorted by number.

    Args:
        texts: as for :func:`read_chain`.
        place: where they are kept, in words that say what to restore.

    Raises:
        LedgerBroken: an entry was edited or removed.
    """
    entries, breaks = read_chain(texts)
    if breaks:
        raise LedgerBroken(
            f"The ledger of promotions cannot be trusted: {'; '.join(breaks)}. Nothing is promoted or rolled back "
            f"on it. Restore {place} from a backup."
        )
    return tuple(entries)


def settled(entry: LedgerEntry, entries: Sequence[LedgerEntry], error: RegistryError | None) -> LedgerEntry:
    """Who wrote the place of ``entry``: only reading after the write tells, whatever the write answered.

    Args:
        entry: what was to be written.
        entries: what was read afterwards.
        error: what the write answered; None when it went well.

    Returns:
        ``entry``, which is in the ledger.

    Raises:
        StaleChampion: somebody else wrote that place first.
        RegistryError: nobody did; it is ``error`` if there is one.
    """
    if len(entries) < entry.number:
        raise error or RegistryError(f"Ledger entry {entry.number} was accepted and is not shown. Read it again.")
    winner = entries[entry.number - 1]
    if winner != entry:
        raise StaleChampion(
            f"{winner.actor} was first: entry {winner.number} of the ledger, {winner.operation.value} of version "
            f"{winner.subject} at {winner.at:%Y-%m-%d %H:%M:%S} UTC. Compare with today's champion and try again."
        )
    return winner


def open_ledger(tracking_uri: str | None, model_name: str, workspace: Path, ledger_uri: str | None = None) -> Ledger:
    """The ledger of one model.

    Args:
        tracking_uri: as for :func:`tasks.adapters.mlflow_store.open_store`.
        model_name: registered model that the ledger belongs to.
        workspace: local folder of the embedded store.
        ledger_uri: the SQL database that keeps the ledger, ``postgresql://…``; without one MLflow keeps it.

    Raises:
        RegistryUnavailable: the store did not answer.
        RegistryError: the store cannot be used.
    """
    if ledger_uri is not None:
        from tasks.adapters.sql_ledger import SqlLedger

        return SqlLedger(ledger_uri, model_name)
    from tasks.adapters.mlflow_ledger import MlflowLedger
    from tasks.adapters.mlflow_store import open_store

    return MlflowLedger(open_store(tracking_uri, workspace), model_name)
