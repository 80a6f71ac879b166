"""Surroundings shared by all tests: no settings from outside, and one real Prefect server for the session."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.postgres import Postgres, postgres_server, programs

if TYPE_CHECKING:
    from tests.databases import Databases
    from tests.servers import PrefectServer, Program

# Before anything imports Prefect or MLflow: no calls home, quick flows, errors told by the tests themselves.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-postgres",
        action="store_true",
        help="Tests against a team's server run with Prefect and MLflow on a real PostgreSQL instead of SQLite files.",
    )


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FEEDLOOP_") and name != "FEEDLOOP_TEST_MOVIELENS":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on loopback with an empty database, for all tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL on loopback, for all tests; ``postgres.fresh_database()`` gives each its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> "Iterator[Databases | None]":
    """Where a team's servers keep their state: files, or PostgreSQL with ``--on-postgres``."""
    if not request.config.getoption("--on-postgres"):
        yield None
        return
    from tests.databases import Databases

    with ExitStack() as stack:
        yield Databases(request.getfixturevalue("postgres"), stack)


@pytest.fixture(scope="session")
def team_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, databases: "Databases | None"
) -> "Iterator[PrefectServer]":
    """A Prefect server as a team runs one: a process of its own, with its database and its UI.

    On PostgreSQL where that is installed: with several runs at once, Prefect's server can lock itself out of an SQLite
    file for a minute.
    """
    from tests.servers import running_server

    database = None
    if databases is None and programs() is not None:
        address: str = request.getfixturevalue("postgres").fresh_database()
        database = address.replace("postgresql://", "postgresql+asyncpg://", 1)
    with running_server(tmp_path_factory.mktemp("prefect"), databases=databases, database=database) as server:
        yield server


@pytest.fixture(scope="session")
def team_worker(team_server: "PrefectServer", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Program]":
    """A worker of that server's pool ``feedloop``.  A test that kills it starts it again."""
    from tests.servers import running_worker

    with running_worker(team_server, tmp_path_factory.mktemp("worker")) as worker:
        yield worker
