"""Who served, in which order, and who may serve again: read from the ledger's entries alone."""

from ranking.results import LedgerEntry, Operation


def serving_version(entries: tuple[LedgerEntry, ...]) -> str | None:
    """The version that serves after these entries; None when they never named one."""
    return entries[-1].after if entries else None


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
        if entry.after is not None and entry.operation.moves:
            found.pop(entry.after, None)
    return found


def back_to(entries: tuple[LedgerEntry, ...], champion: str) -> str | None:
    """The version that a rollback from ``champion`` goes to if its bytes still verify; None if there is none."""
    bad = quarantined(entries)
    candidates = [version for version in served(entries) if version != champion and version not in bad]
    return candidates[-1] if candidates else None
