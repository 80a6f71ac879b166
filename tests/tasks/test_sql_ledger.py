"""The ledger in a real PostgreSQL: the contract, its own table, and what an outage does to it."""

import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tasks.registry
from ranking.errors import RegistryError, RegistryUnavailable, StaleChampion
from settings.effects import RegistryKnobs
from tasks.adapters import sql_ledger
from tasks.adapters.ledger import Ledger, open_ledger, written
from tests.postgres import PASSWORD, Postgres, postgres_server
from tests.tasks.test_ledger import LedgerContract, Opener, draft, winner_of_eight_processes
from tests.tasks.tiny_models import NAME, with_database

DECISION = Path(__file__).parents[2] / "docs/decisions/0007-ledger-in-postgresql.md"
SUPERUSER = (
    "ALTER TABLE feedloop_ledger DISABLE TRIGGER USER",
    'UPDATE feedloop_ledger SET entry = replace(entry, \'"actor":"ada"\', \'"actor":"eve"\') WHERE number = {}',
)


def open_sql(uri: str, name: str = NAME) -> Ledger:
    return open_ledger(None, name, Path("unused"), uri)


@pytest.fixture
def uri(postgres: Postgres) -> str:
    return postgres.fresh_database()


class TestSqlLedger(LedgerContract):
    @pytest.fixture
    def opener(self, uri: str) -> Opener:
        return lambda: open_sql(uri)


def test_eight_processes_may_start_a_ledger_at_once_and_one_wins(uri: str, tmp_path: Path) -> None:
    winner = winner_of_eight_processes(tmp_path, uri)
    assert [entry.actor for entry in open_sql(uri).entries()] == [winner]


def test_the_table_is_created_once_when_all_first_users_find_it_missing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = sql_ledger._create
    for _ in range(3):
        uri = postgres.fresh_database()
        together = threading.Barrier(8, timeout=60)

        def create_together(connection: Any, together: threading.Barrier = together) -> None:
            together.wait()
            create(connection)

        monkeypatch.setattr(sql_ledger, "_create", create_together)
        with ThreadPoolExecutor(8) as pool:
            models = [f"model-{number}" for number in range(8)]
            entries = list(pool.map(lambda model, uri=uri: open_sql(uri, model).append(draft(1), None), models))
        assert [open_sql(uri, model).head() for model in models] == entries


def test_both_spellings_of_the_address_open_the_same_ledger_and_models_have_their_own(uri: str) -> None:
    entry = open_sql(uri).append(draft(1), None)
    assert open_sql(uri.replace("postgresql://", "postgresql+psycopg://")).head() == entry
    assert open_sql(uri, "other").head() is None


def test_the_knob_leads_to_the_database_and_without_it_the_ledger_lies_in_mlflow(uri: str, tmp_path: Path) -> None:
    entry = open_sql(uri).append(draft(1), None)
    workspace = str(with_database(tmp_path))
    assert tasks.registry.ledger_entries(RegistryKnobs(ledger_uri=uri), workspace) == (entry,)
    assert tasks.registry.ledger_entries(RegistryKnobs(), workspace) == ()


def _three_entries(uri: str) -> Ledger:
    ledger = open_sql(uri)
    head = None
    for version in (1, 2, 3):
        head = ledger.append(draft(version), head)
    return ledger


class TestAppendOnly:
    @pytest.mark.parametrize(
        ("statement", "operation"),
        [
            ("UPDATE feedloop_ledger SET entry = '{}'", "UPDATE"),
            ("DELETE FROM feedloop_ledger WHERE number = 3", "DELETE"),
            ("TRUNCATE feedloop_ledger", "TRUNCATE"),
            (
                "INSERT INTO feedloop_ledger VALUES ('feed_ranker', 1, 'x') "
                "ON CONFLICT (model, number) DO UPDATE SET entry = 'x'",
                "UPDATE",
            ),
        ],
    )
    def test_the_database_refuses_to_change_an_entry_even_to_its_owner(
        self, postgres: Postgres, uri: str, statement: str, operation: str
    ) -> None:
        ledger = _three_entries(uri)
        before = ledger.entries()
        with pytest.raises(psycopg.errors.RaiseException, match=f"append-only: {operation} is refused"):
            postgres.execute(uri, statement)
        assert ledger.entries() == before

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_an_entry_edited_by_a_superuser_is_found_and_named(self, postgres: Postgres, uri: str, number: int) -> None:
        ledger = _three_entries(uri)
        postgres.execute(uri, *(statement.format(number) for statement in SUPERUSER))
        assert f"entry {number} was edited" in ledger.verify()[0]
        with pytest.raises(
            RegistryError, match=rf"entry {number} was edited.*Restore the table feedloop_ledger"
        ) as told:
            ledger.append(draft(4), None)
        assert PASSWORD not in str(told.value)

    def test_an_entry_rewritten_with_a_fitting_hash_is_betrayed_by_the_next_one(
        self, postgres: Postgres, uri: str
    ) -> None:
        ledger = _three_entries(uri)
        forged = written(ledger.entries()[1].model_copy(update={"actor": "eve"}))
        forgery = f"UPDATE feedloop_ledger SET entry = $entry${forged}$entry$ WHERE number = 2"  # noqa: S608 (forging is the point)
        postgres.execute(uri, SUPERUSER[0], forgery)
        assert ledger.verify() == ("entry 2 was edited: entry 3 remembers it differently",)

    def test_a_deleted_entry_is_found_and_named(self, postgres: Postgres, uri: str) -> None:
        ledger = _three_entries(uri)
        postgres.execute(uri, SUPERUSER[0], "DELETE FROM feedloop_ledger WHERE number = 2")
        assert ledger.verify() == ("entry 2 is missing",)


@contextmanager
def roles(postgres: Postgres, uri: str) -> Iterator[Callable[[str], str]]:
    """Two roles that may log in and nothing else; gives a function from role to address."""
    names = ("promoter", "reader")
    postgres.execute(uri, *(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'" for name in names))
    try:
        yield lambda name: postgres.url(uri.rsplit("/", 1)[1], user=name)
    finally:
        postgres.execute(uri, *(f"DROP OWNED BY {name}" for name in names), *(f"DROP ROLE {name}" for name in names))


def test_with_the_rights_in_the_decision_a_promoter_appends_a_reader_reads_and_nobody_edits(
    postgres: Postgres, uri: str
) -> None:
    (documented,) = re.findall(r"```sql\n(.*?)```", DECISION.read_text(encoding="utf-8"), re.DOTALL)
    with roles(postgres, uri) as url:
        postgres.execute(uri, documented)
        entry = open_sql(url("promoter")).append(draft(1), None)
        assert open_sql(url("reader")).entries() == (entry,)
        with pytest.raises(
            RegistryError, match=r"permission denied for table.*A reader needs SELECT.*SELECT and INSERT"
        ):
            open_sql(url("reader")).append(draft(2), entry)
        for statement in ("UPDATE feedloop_ledger SET entry = ''", "DELETE FROM feedloop_ledger", SUPERUSER[0]):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                postgres.execute(url("promoter"), statement)
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            postgres.execute(uri, "DELETE FROM feedloop_ledger")
        assert open_sql(url("reader")).entries() == (entry,)


def test_the_documented_table_is_the_one_that_a_first_promotion_creates(postgres: Postgres, uri: str) -> None:
    (documented,) = re.findall(r"```sql\n(.*?)GRANT", DECISION.read_text(encoding="utf-8"), re.DOTALL)
    by_hand = postgres.fresh_database()
    postgres.execute(by_hand, documented)
    open_sql(uri).append(draft(1), None)
    assert _table(uri) == _table(by_hand)


def _table(uri: str) -> list[Any]:
    queries = (
        "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name LIKE 'feedloop%'",
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'feedloop_ledger'",
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT regexp_replace(prosrc, '\\s+', ' ', 'g') FROM pg_proc WHERE proname = 'feedloop_ledger_refuse'",
    )
    with psycopg.connect(uri) as connection:
        return [sorted(connection.execute(query.encode()).fetchall()) for query in queries]


class TestRefusedByName:
    """Whatever is wrong with the address: a clear "no" that never tells the password."""

    def refused(self, uri: str, secret: str = PASSWORD) -> str:
        with pytest.raises(RegistryError) as caught:
            open_sql(uri).append(draft(1), None)
        assert secret not in "".join(traceback.format_exception(caught.value, limit=0))
        assert not isinstance(caught.value, RegistryUnavailable)
        return str(caught.value)

    def test_a_wrong_password(self, uri: str) -> None:
        said = self.refused(uri.replace(PASSWORD, "wr0ng%40horse"), "wr0ng")
        assert 'password authentication failed for user "feedloop". Check user and database' in said
        assert "PGPASSWORD or ~/.pgpass" in said

    def test_no_password(self, uri: str) -> None:
        assert "no password supplied" in self.refused(uri.replace(f":{PASSWORD}", ""))

    def test_a_database_that_is_not_there(self, postgres: Postgres) -> None:
        assert 'database "nowhere" does not exist' in self.refused(postgres.url("nowhere"))

    def test_no_right_to_create_the_table(self, postgres: Postgres, uri: str) -> None:
        with roles(postgres, uri) as url:
            assert open_sql(url("reader")).head() is None
            said = self.refused(url("promoter"))
        assert "permission denied for schema public" in said
        assert "who promotes first also needs CREATE on the schema" in said

    def test_an_option_that_the_driver_does_not_know(self, uri: str) -> None:
        assert 'invalid connection option "colour"' in self.refused(f"{uri}?colour=red")

    def test_a_password_that_was_not_escaped(self) -> None:
        said = self.refused("postgresql://ada:ho@rse@db/promotions", "rse@")
        assert "registry.ledger_uri = postgresql://ada:***@db/promotions is not an address of PostgreSQL" in said
        assert "@ is %40" in said

    @pytest.mark.parametrize(
        "uri", ["mysql://ada:correct-horse@db/x", "postgresql+asyncpg://ada:correct-horse@db/x", "nonsense",
                "postgresql://ada:correct-horse@db:port/x"]
    )  # fmt: skip
    def test_another_kind_of_address(self, uri: str) -> None:
        assert "is not an address of PostgreSQL. Write postgresql://USER@HOST/DATABASE" in self.refused(uri)

    def test_a_missing_driver_names_the_extra(self, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        assert "pip install feedloop[postgres]" in self.refused(uri)


@pytest.fixture
def lines() -> Iterator[list[socket.socket]]:
    held: list[socket.socket] = []
    yield held
    for line in held:
        line.close()


def _a_port_that_never_answers(lines: list[socket.socket]) -> int:
    silent = socket.create_server(("127.0.0.1", 0))
    lines.append(silent)
    return int(silent.getsockname()[1])


class TestOutage:
    def test_a_stopped_server_is_known_in_time_and_the_ledger_goes_on_when_it_is_back(self) -> None:
        with postgres_server() as server:
            ledger = open_sql(server.fresh_database())
            first = ledger.append(draft(1), None)
            server.stop()
            began = time.monotonic()
            for call in (ledger.head, ledger.verify, lambda: ledger.append(draft(2), first)):
                with pytest.raises(RegistryUnavailable, match=r"did not answer.*refused.*repeating is safe") as caught:
                    call()
                assert PASSWORD not in str(caught.value)
            assert time.monotonic() - began < 30
            server.start()
            assert ledger.append(draft(2), first) == ledger.head()
            assert ledger.verify() == ()

    def test_a_server_that_accepts_and_never_answers_is_given_up(self, lines: list[socket.socket]) -> None:
        port = _a_port_that_never_answers(lines)
        ledger = open_sql(f"postgresql://ada@127.0.0.1:{port}/promotions?connect_timeout=2")
        with pytest.raises(RegistryUnavailable, match="connection timeout expired"):
            ledger.append(draft(1), None)

    @pytest.mark.slow
    def test_without_a_timeout_of_its_own_such_an_address_is_given_up_within_half_a_minute(
        self, lines: list[socket.socket]
    ) -> None:
        port = _a_port_that_never_answers(lines)
        began = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="did not answer"):
            open_sql(f"postgresql://ada@localhost:{port}/promotions").append(draft(1), None)
        assert time.monotonic() - began < 30

    def test_an_answer_lost_on_the_way_still_counts_as_written(
        self, postgres: Postgres, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert = sql_ledger._insert

        def insert_and_lose_the_connection(connection: Any, row: dict[str, Any]) -> None:
            insert(connection, row)
            _terminate(postgres, uri, connection)
            connection.exec_driver_sql("SELECT 1")

        monkeypatch.setattr(sql_ledger, "_insert", insert_and_lose_the_connection)
        assert open_sql(uri).append(draft(1), None).subject == "1"
        assert len(open_sql(uri).entries()) == 1

    def test_a_connection_lost_before_writing_is_an_outage_and_not_a_lost_race(
        self, postgres: Postgres, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open_sql(uri)
        first = ledger.append(draft(1), None)
        insert = sql_ledger._insert

        def lose_the_connection_and_insert(connection: Any, row: dict[str, Any]) -> None:
            _terminate(postgres, uri, connection)
            insert(connection, row)

        monkeypatch.setattr(sql_ledger, "_insert", lose_the_connection_and_insert)
        with pytest.raises(RegistryUnavailable, match="did not answer"):
            ledger.append(draft(2), first)
        assert ledger.entries() == (first,)

    def test_a_lock_held_by_somebody_else_is_not_waited_for_long(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open_sql(uri)
        first = ledger.append(draft(1), None)
        monkeypatch.setattr(sql_ledger, "_LIMITS", sql_ledger._LIMITS.bindparams(limit="200ms"))
        with _locked(uri), pytest.raises(RegistryUnavailable, match="timeout"):
            ledger.append(draft(2), first)
        assert ledger.append(draft(2), first) == ledger.head()

    def test_a_frozen_server_is_hung_up_on_and_what_it_held_back_is_not_written_later(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = open_sql(uri)
        first = ledger.append(draft(1), None)
        monkeypatch.setattr(sql_ledger, "ANSWER_TIMEOUT_SECONDS", 2.0)
        failures: list[BaseException] = []

        def promote() -> None:
            try:
                ledger.append(draft(2), first)
            except RegistryUnavailable as error:
                failures.append(error)

        with _locked(uri) as other:
            promoter = threading.Thread(target=promote)
            promoter.start()
            frozen = _waiting_for_the_lock(other)
            os.kill(frozen, signal.SIGSTOP)
            try:
                promoter.join(timeout=30)
            finally:
                os.kill(frozen, signal.SIGCONT)
        assert not promoter.is_alive()
        assert "did not answer" in str(failures[0])
        with pytest.raises(StaleChampion, match="ada was first: entry 1"):
            ledger.append(draft(2), None)
        assert ledger.append(draft(3), first) == ledger.head()


def _terminate(postgres: Postgres, uri: str, connection: Any) -> None:
    backend = connection.connection.driver_connection.info.backend_pid
    postgres.execute(uri, f"SELECT pg_terminate_backend({backend}, 10000)")


@contextmanager
def _locked(uri: str) -> Iterator["psycopg.Connection[Any]"]:
    """Hold a lock that lets others read and not write."""
    with psycopg.connect(uri) as other:
        other.execute("LOCK TABLE feedloop_ledger IN EXCLUSIVE MODE")
        yield other


def _waiting_for_the_lock(other: "psycopg.Connection[Any]") -> int:
    query = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'feedloop_ledger'::regclass"
    for _ in range(500):
        found = other.execute(query).fetchone()
        if found is not None:
            return int(found[0])
        time.sleep(0.01)
    raise AssertionError("nobody waits for the lock")
