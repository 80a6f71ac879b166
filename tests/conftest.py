"""Surroundings shared by all tests: no settings from outside, and one real Prefect server for the session."""

import os
from collections.abc import Iterator

import pytest

from tests.postgres import Postgres, postgres_server

# Before anything imports Prefect or MLflow: no calls home, quick flows, errors told by the tests themselves.
os.environ.update(
    {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
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
