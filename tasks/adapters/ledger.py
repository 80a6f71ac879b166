"""The ledger: the append-only, hash-chained history of who serves.  Its head is the truth.

MLflow's aliases have no compare-and-set: of four racers all "win".  An MLflow *parameter* can be
written once and never changed, so entry ``00000007`` has exactly one author, whatever happens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import AwareDatetime, ValidationError

from ranking.errors import LedgerBroken, RegistryError, StaleChampion, UnknownModel
from ranking.results import LedgerEntry, Operation
from ranking.values import Value, canonical_json
from tasks.adapters.mlflow_errors import answered
from tasks.adapters.mlflow_store import Store, open_store

LONGEST_ENTRY = 6000
"""Characters of one entry; MLflow cuts longer parameters silently."""

_POINTER_TAG = "feedloop.ledger_run"


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


class MlflowLedger:
    """One run whose write-once parameters ``00000001``, ``00000002``, … are the entries.

    The run is named by a tag of the experiment ``<model>-ledger-pointer``, which is created together
    with its tag: experiment names are unique, so all processes agree on one run, even when they
    start at the same moment or die half way.
    """

    def __init__(self, store: Store, model_name: str) -> None:
        self._store = store
        self._experiment = f"{model_name}-ledger"
        self._pointer = f"{model_name}-ledger-pointer"
        self._run: str | None = None

    def entries(self) -> tuple[LedgerEntry, ...]:
        """See :meth:`Ledger.entries`."""
        entries, breaks = read_chain(self._texts())
        if breaks:
            raise LedgerBroken(
                f"The ledger of promotions cannot be trusted: {'; '.join(breaks)}. Nothing is promoted or rolled back "
                f"on it. Restore the MLflow store from a backup (experiment {self._experiment!r})."
            )
        return tuple(entries)

    def head(self) -> LedgerEntry | None:
        """See :meth:`Ledger.head`."""
        entries = self.entries()
        return entries[-1] if entries else None

    def append(self, draft: Draft, expected_head: LedgerEntry | None) -> LedgerEntry:
        """See :meth:`Ledger.append`."""
        entry = chained(draft, expected_head)
        text = written(entry)
        error: RegistryError | None = None
        try:
            run = self._run_id() or self._create_run()
            with answered(self._store.uri):
                self._store.client.log_param(run, _key(entry.number), text)
        except RegistryError as problem:
            # Taken by somebody else, or written with the answer lost on the way: only reading tells.
            error = problem
        entries = self.entries()
        if len(entries) < entry.number:
            raise error or RegistryError(f"MLflow accepted ledger entry {entry.number} and does not show it.")
        winner = entries[entry.number - 1]
        if winner != entry:
            raise StaleChampion(
                f"{winner.actor} was first: entry {winner.number} of the ledger, {winner.operation.value} of version "
                f"{winner.subject} at {winner.at:%Y-%m-%d %H:%M:%S} UTC. Compare with today's champion and try again."
            )
        return winner

    def verify(self) -> tuple[str, ...]:
        """See :meth:`Ledger.verify`."""
        return tuple(read_chain(self._texts())[1])

    def _texts(self) -> list[tuple[int, str]]:
        run = self._run_id()
        if run is None:
            return []
        with answered(self._store.uri):
            params = self._store.client.get_run(run).data.params
        return sorted((int(key), text) for key, text in params.items() if key.isdecimal())

    def _run_id(self) -> str | None:
        """The ledger's run; None when nothing was ever recorded."""
        if self._run is None:
            self._run = self._pointed_run()
        return self._run

    def _pointed_run(self) -> str | None:
        with answered(self._store.uri):
            pointer = self._store.client.get_experiment_by_name(self._pointer)
        if pointer is None:
            return None
        run = pointer.tags.get(_POINTER_TAG)
        if run is None:
            raise UnknownModel(
                f"The MLflow experiment {self._pointer!r} has lost its tag {_POINTER_TAG}: the ledger of promotions "
                "cannot be found. Restore the MLflow store from a backup."
            )
        return str(run)

    def _create_run(self) -> str:
        experiment = self._store.experiment(self._experiment)
        with answered(self._store.uri):
            candidate = self._store.client.create_run(experiment, run_name="ledger").info.run_id
        won = self._store.create_experiment(self._pointer, tags={_POINTER_TAG: candidate})
        chosen = candidate if won else self._pointed_run()
        if chosen is None:
            raise RegistryError(f"MLflow says that the experiment {self._pointer!r} exists and does not show it.")
        if chosen != candidate:
            with answered(self._store.uri):
                self._store.client.delete_run(candidate)
        return chosen


def _key(number: int) -> str:
    return f"{number:08d}"


def open_ledger(tracking_uri: str | None, model_name: str, workspace: Path, ledger_uri: str | None = None) -> Ledger:
    """The ledger of one model.

    Args:
        tracking_uri: as for :func:`tasks.adapters.mlflow_store.open_store`.
        model_name: registered model that the ledger belongs to.
        workspace: local folder of the embedded store.

    Raises:
        RegistryUnavailable: the store did not answer.
        RegistryError: the store cannot be used.
    """
    return MlflowLedger(open_store(tracking_uri, workspace), model_name)
