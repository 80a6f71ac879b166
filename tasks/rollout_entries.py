"""A rollout's entries in the ledger: what they say, and how the next one is written.

The state lies in the ledger.  Each change is one entry, written by exactly one of those who try.
"""

from datetime import datetime

from ranking.errors import StaleChampion
from ranking.ledger import LedgerEntry, Operation
from ranking.results import Evidence
from ranking.rollout import Rollout, RolloutStatus, Transition
from tasks.adapters.ledger import Draft, Ledger
from tasks.adapters.registry import Registry
from tasks.routing import last_rollout, rollout_of
from tasks.succession import serving_version

_LONGEST_REASON = 1500
"""Characters of a step's reason: an entry of the ledger holds the state besides."""


def present(entries: tuple[LedgerEntry, ...]) -> Rollout | None:
    """The rollout that concerns the champion of now; ``None`` without one.

    One that has ended well and was promoted is over, and so is one whose champion no longer serves.
    """
    entry = last_rollout(entries)
    if entry is None:
        return None
    rollout = rollout_of(entry)
    if rollout.champion != serving_version(entries):
        return None
    return rollout.model_copy(update={"history": tuple(map(_transition, history(entries, rollout)))})


def _transition(entry: LedgerEntry) -> Transition:
    """One entry as a line of the rollout's history."""
    action, _, reason = entry.reason.partition(": ")
    return Transition(at=entry.at, actor=entry.actor, action=action, stage=rollout_of(entry).stage, reason=reason)


def running(entries: tuple[LedgerEntry, ...]) -> Rollout | None:
    """The rollout that a tick has to look at: running, paused, or completed and not promoted yet."""
    rollout = present(entries)
    if rollout is None or (rollout.status.ended and rollout.status is not RolloutStatus.COMPLETED):
        return None
    return rollout


def begun_with(entries: tuple[LedgerEntry, ...], approval_digest: str) -> LedgerEntry | None:
    """The beginning of the rollout that an approval was used for; ``None`` if it was not."""
    return next((e for e in entries if e.rollout is not None and e.approval_digest == approval_digest), None)


def history(entries: tuple[LedgerEntry, ...], rollout: Rollout) -> tuple[LedgerEntry, ...]:
    """Every entry of one rollout, its beginning first."""
    return tuple(entry for entry in entries if entry.rollout is not None and entry.rollout["id"] == rollout.id)


def tested(entries: tuple[LedgerEntry, ...], evidence: Evidence) -> bool:
    """Whether the ledger knows of the A/B test that the evidence says was won, about this very challenger."""
    trial, challenger = evidence.trial, evidence.comparison.challenger
    if trial is None:
        return False
    found = [entry for entry in entries if entry.rollout is not None and entry.rollout["id"] == trial.rollout]
    if not found:
        return False
    last = rollout_of(found[-1])
    return (found[0].subject, found[0].digest, last.status, last.champion) == (
        challenger.version,
        challenger.digest,
        RolloutStatus.COMPLETED,
        evidence.compared_with,
    )


def write_step(
    registry: Registry,
    ledger: Ledger,
    head: LedgerEntry | None,
    rollout: Rollout,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> LedgerEntry:
    """Write a rollout's new state as the entry after ``head``.

    Raises:
        StaleChampion: somebody else moved it, or changed who serves; nothing was written.
    """
    begun = history(ledger.entries(), rollout)[0]
    draft = Draft(
        operation=Operation.ROLLOUT,
        before=rollout.champion,
        after=rollout.champion,
        subject=rollout.challenger,
        digest=begun.digest,
        evidence_digest=begun.evidence_digest,
        forced=begun.forced,
        actor=actor,
        reason=reason[:_LONGEST_REASON],
        at=now,
        rollout=kept(rollout),
    )
    entry = append_entry(ledger, draft, head)
    tell_registry(registry, entry)
    return entry


def append_entry(ledger: Ledger, draft: Draft, head: LedgerEntry | None) -> LedgerEntry:
    """Take the next place.  Refusals may come in between; a step of a rollout or another champion may not.

    Raises:
        StaleChampion: one of these came in between.
    """
    while True:
        try:
            return ledger.append(draft, head)
        except StaleChampion:
            entries = ledger.entries()
            since = entries[head.number if head else 0 :]
            if any(entry.operation.moves or entry.rollout is not None for entry in since):
                raise
            head = entries[-1]


def kept(rollout: Rollout) -> dict[str, object]:
    """The state as an entry keeps it: its history is the entries before."""
    return rollout.model_copy(update={"history": ()}).model_dump(mode="json")


def tell_registry(registry: Registry, entry: LedgerEntry) -> None:
    """Tags of the challenger, for whoever looks at it in the registry; they can be told again from the ledger."""
    rollout = rollout_of(entry)
    tags = {"status": f"rollout: {rollout.status}", "rollout": rollout.id, "rollout_stage": rollout.current.name}
    registry.annotate(registry.model(rollout.challenger), tags)
