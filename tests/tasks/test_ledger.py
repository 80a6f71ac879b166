"""The ledger's contract, for every implementation, and what MLflow's has to survive."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import RegistryError, RegistryUnavailable, StaleChampion
from ranking.ledger import LedgerEntry, Operation
from tasks.adapters.ledger import LONGEST_ENTRY, Draft, Ledger, chained, open_ledger, read_chain, written
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.tiny_models import NAME, NOW, with_database

Opener = Callable[[], Ledger]


def draft(version: int, *, actor: str = "ada", reason: str = "better", before: int | None = None) -> Draft:
    return Draft(
        operation=Operation.PROMOTE,
        before=None if before is None else str(before),
        after=str(version),
        subject=str(version),
        digest="d" * 64,
        evidence_digest="e" * 64,
        forced=False,
        actor=actor,
        reason=reason,
        at=NOW + timedelta(minutes=version),
    )


class LedgerContract:
    """What any ledger must do.  A subclass gives ``opener``: each call opens the same ledger anew."""

    def test_a_new_ledger_has_no_head(self, opener: Opener) -> None:
        assert opener().head() is None
        assert opener().entries() == ()
        assert opener().verify() == ()

    def test_entries_come_back_in_order_from_a_ledger_opened_anew(self, opener: Opener) -> None:
        first = opener().append(draft(1), None)
        second = opener().append(draft(2, before=1), first)
        assert opener().entries() == (first, second)
        assert opener().head() == second
        assert (first.number, second.number) == (1, 2)
        assert (first.previous_hash, second.previous_hash) == ("", first.hash)

    def test_a_writer_who_saw_an_older_head_is_told_who_was_first(self, opener: Opener) -> None:
        first = opener().append(draft(1), None)
        opener().append(draft(2, actor="grace"), first)
        with pytest.raises(StaleChampion, match=r"grace was first: entry 2 .* version 2"):
            opener().append(draft(3), first)
        assert [entry.subject for entry in opener().entries()] == ["1", "2"]

    def test_a_writer_who_saw_no_head_at_all_is_refused_too(self, opener: Opener) -> None:
        opener().append(draft(1), None)
        with pytest.raises(StaleChampion, match="ada was first: entry 1"):
            opener().append(draft(2), None)

    def test_repeating_an_append_gives_the_same_entry_and_adds_nothing(self, opener: Opener) -> None:
        first = opener().append(draft(1), None)
        assert opener().append(draft(1), None) == first
        opener().append(draft(2), first)
        assert opener().append(draft(1), None) == first, "also after others went on"
        assert len(opener().entries()) == 2

    def test_a_reason_of_any_alphabet_comes_back_as_it_was(self, opener: Opener) -> None:
        reason = "Größer ≥ 0,5 % — 好 \n\t\"quoted\" 'and' {json} \\ 🙂"
        assert opener().append(draft(1, reason=reason), None).reason == reason
        assert opener().entries()[0].reason == reason

    def test_the_longest_reason_fits_and_one_character_more_is_refused_with_the_numbers(self, opener: Opener) -> None:
        room = LONGEST_ENTRY - len(written(chained(draft(1, reason=""), None)))
        with pytest.raises(RegistryError, match=rf"{room + 1} characters, and a ledger entry has room for {room}\."):
            opener().append(draft(1, reason="x" * (room + 1)), None)
        assert opener().head() is None
        opener().append(draft(1, reason="x" * room), None)
        assert opener().verify() == ()
        assert len(opener().entries()[0].reason) == room

    def test_of_eight_threads_exactly_one_wins_each_place(self, opener: Opener) -> None:
        head = None
        for place in range(1, 4):
            expected = head

            def race(racer: int, expected: LedgerEntry | None = expected) -> LedgerEntry | None:
                try:
                    return opener().append(draft(racer, actor=f"racer {racer}"), expected)
                except StaleChampion:
                    return None

            with ThreadPoolExecutor(8) as pool:
                results = list(pool.map(race, range(8)))
            winners = [entry for entry in results if entry is not None]
            assert len(winners) == 1
            assert opener().entries()[place - 1] == winners[0]
            head = winners[0]
        assert opener().verify() == ()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return with_database(tmp_path)


class TestMlflowLedger(LedgerContract):
    @pytest.fixture
    def opener(self, workspace: Path) -> Opener:
        return lambda: open_ledger(None, NAME, workspace)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.mark.slow
class TestMlflowLedgerBehindAServer(LedgerContract):
    @pytest.fixture
    def opener(self, server: str, tmp_path: Path) -> Opener:
        return lambda: open_ledger(server, f"model-{tmp_path.name}", tmp_path)


_RACER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from ranking.errors import StaleChampion
from tasks.adapters.ledger import Draft, open_ledger

workspace, racer, ledger_uri = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
ledger = open_ledger(None, "feed_ranker", workspace, ledger_uri or None)
(workspace / f"ready-{racer}").touch()
while not (workspace / "go").exists():
    time.sleep(0.001)
draft = Draft(operation="promote", before=None, after=racer, subject=racer, digest="d", evidence_digest=None,
              forced=False, actor=racer, reason="race", at=datetime(2026, 1, 1, tzinfo=UTC))
try:
    print("RESULT", ledger.append(draft, None).actor)
except StaleChampion:
    print("RESULT stale")
"""


def winner_of_eight_processes(folder: Path, ledger_uri: str = "") -> str:
    """Let eight processes append the first entry at once; the others have to hear that they are stale."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(folder), str(racer), ledger_uri], stdout=subprocess.PIPE, text=True
        )
        for racer in range(8)
    ]
    while len(list(folder.glob("ready-*"))) < len(racers):
        assert all(racer.poll() is None for racer in racers)
        time.sleep(0.05)
    (folder / "go").touch()
    results = [racer.communicate(timeout=120)[0].split()[-1] for racer in racers]
    (winner,) = [result for result in results if result != "stale"]
    return winner


@pytest.mark.slow
def test_of_eight_processes_that_start_the_ledger_at_once_exactly_one_wins(workspace: Path) -> None:
    winner = winner_of_eight_processes(workspace)
    (entry,) = open_ledger(None, NAME, workspace).entries()
    assert entry.actor == winner


def _stored(workspace: Path) -> sqlite3.Connection:
    return sqlite3.connect(workspace / "mlflow.db")


def _three_entries(workspace: Path) -> Ledger:
    ledger = open_ledger(None, NAME, workspace)
    head = None
    for version in (1, 2, 3):
        head = ledger.append(draft(version), head)
    return ledger


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_entry_edited_in_the_database_is_found_and_named(workspace: Path, number: int) -> None:
    ledger = _three_entries(workspace)
    with closing(_stored(workspace)) as connection, connection:
        connection.execute(
            'UPDATE params SET value = replace(value, \'"actor":"ada"\', \'"actor":"eve"\') WHERE key = ?',
            (f"{number:08d}",),
        )
    assert f"entry {number} was edited" in ledger.verify()[0]
    with pytest.raises(RegistryError, match=rf"cannot be trusted: entry {number} was edited.*Restore"):
        ledger.head()
    with pytest.raises(RegistryError, match=f"entry {number} was edited"):
        ledger.append(draft(4), None)


def test_an_entry_rewritten_with_a_fitting_hash_is_betrayed_by_the_next_one(workspace: Path) -> None:
    ledger = _three_entries(workspace)
    forged = ledger.entries()[1].model_copy(update={"actor": "eve"})
    with closing(_stored(workspace)) as connection, connection:
        connection.execute("UPDATE params SET value = ? WHERE key = '00000002'", (written(forged),))
    assert ledger.verify() == ("entry 2 was edited: entry 3 remembers it differently",)


def test_a_deleted_entry_is_found_and_named(workspace: Path) -> None:
    ledger = _three_entries(workspace)
    with closing(_stored(workspace)) as connection, connection:
        connection.execute("DELETE FROM params WHERE key = '00000002'")
    assert ledger.verify() == ("entry 2 is missing",)


def test_a_ledger_whose_pointer_was_lost_is_not_taken_for_an_empty_one(workspace: Path) -> None:
    _three_entries(workspace)
    with closing(_stored(workspace)) as connection, connection:
        connection.execute("DELETE FROM experiment_tags")
    with pytest.raises(RegistryError, match="has lost its tag"):
        open_ledger(None, NAME, workspace).head()


def test_an_answer_lost_on_the_way_still_counts_as_written(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    write = MlflowClient.log_param

    def write_and_lose_the_answer(*arguments: object, **named: object) -> None:
        write(*arguments, **named)
        raise MlflowException("API request to /log-parameter failed with timeout exception")

    monkeypatch.setattr(MlflowClient, "log_param", write_and_lose_the_answer)
    assert open_ledger(None, NAME, workspace).append(draft(1), None).subject == "1"


def test_an_outage_before_writing_is_an_outage_and_not_a_lost_race(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    ledger = open_ledger(None, NAME, workspace)
    ledger.append(draft(1), None)

    def fail(*arguments: object, **named: object) -> None:
        raise MlflowException("API request to /log-parameter failed with exception Max retries exceeded")

    monkeypatch.setattr(MlflowClient, "log_param", fail)
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        ledger.append(draft(2), ledger.head())
    assert len(ledger.entries()) == 1


def test_two_models_in_one_store_have_ledgers_of_their_own(workspace: Path) -> None:
    open_ledger(None, "one", workspace).append(draft(1), None)
    assert open_ledger(None, "other", workspace).head() is None


def _chain(length: int) -> list[tuple[int, str]]:
    texts, head = [], None
    for version in range(1, length + 1):
        head = chained(draft(version), head)
        texts.append((head.number, written(head)))
    return texts


@given(length=st.integers(1, 5), data=st.data())
def test_any_changed_character_in_any_entry_breaks_the_chain(length: int, data: st.DataObject) -> None:
    texts = _chain(length)
    assert read_chain(texts)[1] == []
    place = data.draw(st.integers(0, length - 1))
    number, text = texts[place]
    position = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters().filter(lambda new: new != text[position]))
    changed = text[:position] + character + text[position + 1 :]
    try:
        if json.loads(changed) == json.loads(text):
            return  # only the writing of the same JSON changed, such as 0 for -0
    except ValueError:
        pass
    texts[place] = (number, changed)
    breaks = read_chain(texts)[1]
    assert any(f"entry {number} " in found for found in breaks), breaks
