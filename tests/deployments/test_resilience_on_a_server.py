"""Something dies: a worker in the middle of training, the Prefect server, MLflow.  The run goes on, and once."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun

from ranking.results import Operation
from tests.deployments.team import Team
from tests.deployments.test_cli import TOML, log
from tests.servers import PrefectServer, Program, running_worker, wait_until

pytestmark = pytest.mark.slow

POOL = "pair"

# Training takes long enough to be killed in, and a killed run is soon noticed.
SOON = """
batch_rows = 64
patience_epochs = 100
[schedules]
lost_minutes = 0.75
restart_minutes = 0.2
max_starts = 3
"""
CUTOFF = "2026-01-10T00:00:00Z"


@pytest.fixture(scope="module")
def team(team_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A project whose deployments run in a pool of their own."""
    team = Team(tmp_path_factory.mktemp("resilient"), team_server, TOML + SOON)
    assert team.champion() is None
    log().to_parquet(team.config.parent / "log.parquet")
    told = team.shell("deploy", "--json", "--pool", POOL)
    assert told.code == 0, told
    return team


@pytest.fixture
def workers(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Program]]:
    with (
        running_worker(team.server, tmp_path_factory.mktemp("one"), POOL) as one,
        running_worker(team.server, tmp_path_factory.mktemp("other"), POOL) as other,
    ):
        yield one, other


def tasks_of(team: Team, run: UUID) -> list[TaskRun]:
    with team.server.client() as client:
        return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])), limit=200)


def outcomes(team: Team, run: UUID, name: str) -> list[str]:
    """How the calls of one task ended, or that they have not, oldest first."""
    found = [task for task in tasks_of(team, run) if re.match(name, task.name)]
    return [str(task.state_name) for task in sorted(found, key=lambda task: str(task.created))]


def states_of(team: Team, run: UUID) -> list[tuple[str | None, str | None]]:
    with team.server.client() as client:
        return [(state.name, state.message) for state in client.read_flow_run_states(run)]


def told_of(team: Team, run: UUID) -> str:
    return f"{states_of(team, run)} {[(task.name, task.state_name) for task in tasks_of(team, run)]}"


def test_a_worker_killed_in_training_is_noticed_and_another_finishes_the_same_run(
    team: Team, workers: tuple[Program, Program]
) -> None:
    run = team.start("retrain/retrain", cutoff=CUTOFF, requested_by="rita")
    wait_until(lambda: "Running" in outcomes(team, run, "train "), seconds=240, told=lambda: told_of(team, run))
    (at_work,) = [worker for worker in workers if worker.runs(run)]
    (other,) = [worker for worker in workers if worker is not at_work]
    at_work.kill()
    killed = datetime.now(UTC)

    wait_until(lambda: other.runs(run), seconds=240, told=lambda: told_of(team, run))
    question: dict[str, Any] = team.until_asked(run, seconds=300)
    states = states_of(team, run)
    print(f"{(datetime.now(UTC) - killed).total_seconds():.0f} s from the kill to the question: {states}")
    names = [name for name, _ in states]
    assert names.count("Running") == 2
    assert names[names.index("Crashed") :][:2] == ["Crashed", "AwaitingRestart"]
    messages = dict(states)
    assert messages["Crashed"] == "No sign of life for 0.75 minutes: its worker or its machine is gone."
    assert messages["AwaitingRestart"] == "Started again after a crash: what was finished is not done again."
    assert outcomes(team, run, "take snapshot") == ["Completed", "Cached"]
    assert outcomes(team, run, "build features") == ["Completed", "Cached"]
    assert outcomes(team, run, "train ")[-1:] == ["Completed"]
    assert outcomes(team, run, "register challenger") == ["Completed"]
    assert [version.version for version in team.shop.registry.versions()] == [question["challenger"]]

    team.resume(run, decision="approve", approver="ann", reason="good")
    team.until(run, "Completed", seconds=240)
    (entry,) = team.entries()
    assert (entry.operation, entry.after, entry.actor) == (Operation.PROMOTE, question["challenger"], "ann")
