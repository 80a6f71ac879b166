"""``history``, ``who-served``, ``verify``, ``doctor``, ``prune`` and ``rollback``, on a real embedded registry."""

import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from ranking.approval import ApprovalRules
from tasks import promotion
from tasks.adapters.serving_check import verify_bundle
from tasks.champion import serving
from tests.deployments.test_evidence_commands import Desk, desk, rows
from tests.postgres import Postgres
from tests.tasks.tiny_models import NOW, approval_of, evidence_about

__all__ = ["desk"]  # the fixture, under the name by which tests ask for it


@pytest.fixture
def busy(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk where version 1 served for a day and version 2 serves since."""
    monkeypatch.setattr(promotion, "verify_serving", verify_bundle)
    for day, version in enumerate("12"):
        put(desk, version, day)
    return desk


def put(desk: Desk, version: str, day: int) -> None:
    registry, ledger = desk.shop.registry, desk.shop.ledger
    challenger = registry.model(version)
    evidence = evidence_about(challenger, serving(registry, ledger))
    promotion.promote(
        registry,
        ledger,
        promotion.Proposal(
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update={"at": NOW + timedelta(days=day)}),
            rules=ApprovalRules(),
            policy_digest="p" * 64,
            now=NOW + timedelta(days=day),
        ),
    )


def edit_the_ledger(desk: Desk, number: int) -> None:
    with closing(sqlite3.connect(desk.folder / ".feedloop" / "mlflow.db")) as connection, connection:
        changed = connection.execute(
            'UPDATE params SET value = replace(value, \'"actor":"ada"\', \'"actor":"eve"\') WHERE key = ?',
            (f"{number:08d}",),
        )
        assert changed.rowcount == 1


@pytest.mark.parametrize(
    ("at", "says"),
    [
        ("2026-03-01T11:59:00", "Nothing that feedloop promoted served at 2026-03-01 11:59 UTC; the first entry is of"),
        ("2026-03-01T12:00:00", "Version 1 served, from 2026-03-01 12:00 UTC until 2026-03-02 12:00 UTC."),
        ("2026-03-02T11:59:59", "Version 1 served"),
        ("2026-03-02T12:00:00", "Version 2 served, from 2026-03-02 12:00 UTC and serves still. 2 2026-03-02 12:00 UTC"),
    ],
)
def test_who_served_at_a_moment_is_told_with_what_put_it_there(busy: Desk, at: str, says: str) -> None:
    code, words, _ = busy.run("who-served", "--at", at)
    assert code == 0
    assert says in words


def test_before_anything_was_promoted_nothing_served(desk: Desk) -> None:
    assert "the ledger is empty" in desk.run("who-served", "--at", "2026-03-01")[1]
    assert desk.json("who-served", "--at", "2026-03-01")[1] == {"service": None}


def test_an_intact_ledger_is_verified_and_an_edited_entry_is_named(busy: Desk) -> None:
    code, words, _ = busy.run("verify")
    assert code == 0
    assert (
        f"Intact: 2 entries, each with the hash of the one before, the last one {busy.shop.ledger.head().hash}" in words
    )
    edit_the_ledger(busy, 1)
    code, _, error = busy.run("verify")
    assert code == 6
    assert "LedgerBroken: The ledger of 'feed_ranker' was changed after it was written: entry 1 was edited" in error
    code, _, error = busy.run("rollback", "--reason", "on a broken ledger")
    assert (code, "LedgerBroken" in error) == (6, True)


def test_doctor_finds_everything_in_order_and_mends_aliases(busy: Desk) -> None:
    rows().to_parquet(busy.folder / "log.parquet")
    busy.shop.registry.point("champion", "1")
    code, words, _ = busy.run("doctor")
    assert code == 0, words
    for says in (
        "ok log: ",
        "ok ledger: 2 entries, intact.",
        "ok aliases: As the ledger says: champion is version 2, previous is version 1. They were not; they have been",
        "ok champion: Version 2 is whole and answers as in training.",
        "ok way back: Version 1 is whole and answers as in training.",
    ):
        assert says in words, words
    assert busy.shop.registry.aliases()["champion"] == "2"


def test_doctor_tells_all_that_is_wrong_and_exits_with_six(busy: Desk) -> None:
    edit_the_ledger(busy, 2)
    code, words, _ = busy.run("doctor")
    assert code == 6
    assert "WRONG log: " in words
    assert "WRONG ledger: entry 2 was edited" in words


def test_doctor_finds_a_second_ledger_that_another_worker_would_go_on_writing_to(
    busy: Desk, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows().to_parquet(busy.folder / "log.parquet")
    assert "ok one ledger: It lies in MLflow" in busy.run("doctor")[1]
    monkeypatch.setenv("FEEDLOOP_REGISTRY__LEDGER_URI", postgres.fresh_database())
    code, words, _ = busy.run("doctor")
    assert code == 6
    assert "WRONG one ledger: registry.ledger_uri is set, and MLflow holds another ledger of this model with 2" in words


def test_rollback_needs_a_reason_and_tells_what_it_did(busy: Desk) -> None:
    with pytest.raises(Exception, match="reason"):
        busy.run("rollback")
    code, words, _ = busy.run("rollback", "--reason", "clicks fell")
    assert code == 0
    assert "Version 1 is the champion again; version 2 was put aside. Ledger entry 3: clicks fell." in words
    assert busy.shop.registry.champion().version == "1"


def test_prune_keeps_what_serves_and_what_one_can_go_back_to(busy: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDLOOP_RETENTION__SERVED", "2")
    monkeypatch.setenv("FEEDLOOP_RETENTION__CHALLENGERS", "0")
    for seed in (3, 4, 5):
        busy.shop.register(seed)
    put(busy, "4", 2)
    busy.shop.registry.point("challenger", "5")
    words = busy.run("prune", "--dry-run")[1]
    assert "Version 1: would be bytes dropped, ledger entry 2 (promote, 2026-03-02 12:00 UTC) names it" in words
    assert "Version 2: kept, it is the previous." in words
    assert "Version 3: would be deleted, it never served and nothing was decided about it." in words
    assert [ref.version for ref in busy.shop.registry.versions()] == ["1", "2", "3", "4", "5"]
    code, _, error = busy.run("prune", "--version", "2")
    assert code == 7
    assert "RetentionError: Version 2 is not deleted: it is the previous." in error
    assert busy.run("prune")[0] == 0
    assert [ref.version for ref in busy.shop.registry.versions()] == ["1", "2", "4", "5"]
    assert not busy.shop.registry.released(busy.shop.registry.model("1"))
    assert busy.run("rollback", "--reason", "still possible")[0] == 0
    assert busy.shop.registry.champion().version == "2"
