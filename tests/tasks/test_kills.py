"""Whatever is killed, and whoever races: exactly one valid champion, an intact chain, nothing acknowledged is lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import Postgres
from tests.tasks.mlflow_server import mlflow_server
from tests.tasks.tiny_models import with_database

BACKENDS = ("embedded", "server", "server and ledger in PostgreSQL")


@contextmanager
def backend(kind: str, folder: Path, postgres: Postgres | None) -> Iterator[list[str]]:
    """Arguments of the harness for a fresh store of this kind."""
    if postgres is None:
        yield [str(with_database(folder))]
        return
    (folder / "server").mkdir()
    (folder / "here").mkdir()
    with mlflow_server(folder / "server", postgres.fresh_database().replace("://", "+psycopg://")) as uri:
        ledger = ["--ledger-uri", postgres.fresh_database()] if "ledger" in kind else []
        yield [str(folder / "here"), "--tracking-uri", uri, *ledger]


@pytest.fixture
def postgres_if(request: pytest.FixtureRequest) -> Postgres | None:
    """PostgreSQL, only for the backends that need it."""
    if request.node.callspec.params["kind"] == "embedded":
        return None
    server: Postgres = request.getfixturevalue("postgres")
    return server


def harness(arguments: list[str], timeout: float) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tasks.kill_harness", *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MLFLOW_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_a_few_kills_at_random_moments_leave_one_champion_and_an_intact_chain(tmp_path: Path) -> None:
    seen = harness([str(with_database(tmp_path)), "--kills", "5", "--seed", "3"], timeout=600)
    assert seen["kills"] == 5
    assert seen["entries"] >= seen["acknowledged"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKENDS)
def test_a_hundred_kills_leave_one_champion_and_an_intact_chain(
    kind: str, tmp_path: Path, postgres_if: Postgres | None
) -> None:
    with backend(kind, tmp_path, postgres_if) as arguments:
        seen = harness([*arguments, "--kills", "100", "--seed", "1"], timeout=3600)
    assert seen["kills"] == 100
    assert seen["entries"] >= seen["acknowledged"] > 10
    assert seen["mended"] > 0, "some kills came between the entry and its aliases"


@pytest.mark.slow
def test_a_kill_before_and_after_every_write_leaves_one_champion_and_an_intact_chain(tmp_path: Path) -> None:
    seen = harness([str(with_database(tmp_path)), "--every", "--kills", "1000"], timeout=3600)
    assert seen["kills"] > 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", BACKENDS)
def test_of_eight_processes_that_promote_at_once_one_wins_and_seven_are_told(
    kind: str, tmp_path: Path, postgres_if: Postgres | None
) -> None:
    with backend(kind, tmp_path, postgres_if) as arguments:
        results = harness([*arguments, "--racers", "8"], timeout=900)
    winners = [result for result in results if result.startswith("promoted ")]
    assert len(winners) == 1, results
    losers = [result for result in results if result not in winners]
    assert all(result.startswith("StaleChampion: ") for result in losers), results
    assert len(losers) == 7
