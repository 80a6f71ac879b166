"""What may be deleted, and what never."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from ranking.ledger import LedgerEntry, Operation
from ranking.retention import Fate, RetentionKnobs, plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def history(*moves: tuple[Operation, str]) -> tuple[LedgerEntry, ...]:
    """Entries that promote, decline or roll back to the named versions, in order."""
    entries: list[LedgerEntry] = []
    serves = None
    for number, (operation, subject) in enumerate(moves, start=1):
        after = subject if operation.moves else serves
        entries.append(
            LedgerEntry(
                number=number,
                operation=operation,
                before=serves,
                after=after,
                subject=subject,
                digest="d",
                evidence_digest=None,
                forced=False,
                actor="ada",
                reason="r",
                at=NOW,
                previous_hash="",
            )
        )
        serves = after
    return tuple(entries)


def test_each_fate_has_its_reason() -> None:
    entries = history(
        (Operation.PROMOTE, "1"), (Operation.PROMOTE, "2"), (Operation.DECLINE, "3"), (Operation.PROMOTE, "4")
    )
    fates = plan(list("1234567"), entries, {"champion": "4"}, RetentionKnobs(served=2, challengers=1))
    assert [(keeping.version, keeping.fate) for keeping in fates] == [
        ("1", Fate.DROP_BYTES),
        ("2", Fate.KEEP),
        ("3", Fate.DROP_BYTES),
        ("4", Fate.KEEP),
        ("5", Fate.DELETE),
        ("6", Fate.DELETE),
        ("7", Fate.KEEP),
    ]
    assert fates[0].reason == "ledger entry 2 (promote, 2026-03-01 00:00 UTC) names it: its record stays"
    assert fates[1].reason == "it is number 2 of the versions served last"
    assert fates[3].reason == "it is the champion"
    assert fates[6].reason == "it is one of the 1 newest"


@given(
    moves=st.lists(st.tuples(st.sampled_from(list(Operation)), st.integers(1, 12).map(str)), max_size=25),
    served=st.integers(1, 5),
    challengers=st.integers(0, 5),
)
def test_what_serves_and_what_the_ledger_names_is_never_deleted(
    moves: list[tuple[Operation, str]], served: int, challengers: int
) -> None:
    entries = history(*moves)
    versions = [str(number) for number in range(1, 13)]
    champion = entries[-1].after if entries else None
    fates = plan(
        versions,
        entries,
        {"champion": champion} if champion else {},
        RetentionKnobs(served=served, challengers=challengers),
    )
    assert [keeping.version for keeping in fates] == versions
    named = {version for entry in entries for version in (entry.before, entry.after, entry.subject)}
    for keeping in fates:
        if keeping.version == champion:
            assert keeping.fate is Fate.KEEP
        if keeping.version in named:
            assert keeping.fate is not Fate.DELETE
    assert all(keeping.fate is Fate.KEEP for keeping in fates[len(fates) - challengers :])
