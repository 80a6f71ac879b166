"""Who served, in which order, and who may serve again: read from the ledger's entries alone."""

from datetime import datetime

from ranking.ledger import LedgerEntry, Operation, Service


def serving_version(entries: tuple[LedgerEntry, ...]) -> str | None:
    """The version that serves after these entries; None when they never named one."""
    return entries[-1].after if entries else None


def last_move(entries: tuple[LedgerEntry, ...]) -> LedgerEntry | None:
    """The newest entry that changed who serves; None if none did."""
    return next((entry for entry in reversed(entries) if entry.operation.moves), None)


def services(entries: tuple[LedgerEntry, ...]) -> tuple[Service, ...]:
    """Who served when, oldest first.  A version that served before the first entry has no known start."""
    moves = [entry for entry in entries if entry.operation.moves and entry.after is not None]
    ends = [*(entry.at for entry in moves[1:]), None]
    return tuple(
        Service(version=entry.after or "", start=entry.at, end=end, started_by=entry)
        for entry, end in zip(moves, ends, strict=False)
    )


def served_at(entries: tuple[LedgerEntry, ...], moment: datetime) -> Service | None:
    """Who served at a moment; None when that was before the first entry."""
    return next((service for service in reversed(services(entries)) if service.start <= moment), None)


def served(entries: tuple[LedgerEntry, ...]) -> tuple[str, ...]:
    """The versions to go back to, the one that serves now last.

    A promotion puts its version on top; a rollback takes away what it went back over.
    """
    stack: list[str] = []
    for entry in entries:
        if not stack and entry.before is not None:
            stack.append(entry.before)
        if entry.after is None or not entry.operation.moves:
            continue
        if entry.operation is Operation.ROLLBACK and entry.after in stack:
            del stack[len(stack) - stack[::-1].index(entry.after) :]
        elif stack[-1:] != [entry.after]:
            stack.append(entry.after)
    return tuple(stack)


def quarantined(entries: tuple[LedgerEntry, ...]) -> dict[str, LedgerEntry]:
    """Versions that were rolled back from, with the entry that did it; serving again clears one."""
    found: dict[str, LedgerEntry] = {}
    for entry in entries:
        if entry.operation is Operation.ROLLBACK and entry.before is not None:
            found[entry.before] = entry
        if entry.rollout is not None and entry.rollout["quarantined"]:
            found[entry.subject] = entry
        if entry.after is not None and entry.operation.moves:
            found.pop(entry.after, None)
    return found


def ways_back(entries: tuple[LedgerEntry, ...], champion: str) -> tuple[str, ...]:
    """The versions that a rollback from ``champion`` may go to, the nearest first."""
    bad = quarantined(entries)
    return tuple(
        version for version in dict.fromkeys(reversed(served(entries))) if version != champion and version not in bad
    )


def back_to(entries: tuple[LedgerEntry, ...], champion: str) -> str | None:
    """The version that a rollback from ``champion`` goes to if its bytes still verify; None if there is none."""
    return next(iter(ways_back(entries, champion)), None)
