"""Something dies: a worker in the middle of training, the Prefect server, MLflow.  The run goes on, and once."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.states import Cancelling, Crashed, Pending, Running, Scheduled

from ranking.ledger import Operation
from tests.databases import Databases
from tests.deployments.team import Team, runs_of
from tests.deployments.test_cli import TOML, log
from tests.servers import PrefectServer, Program, running_worker, wait_until
from tests.tasks.mlflow_server import free_port, mlflow_server

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
monitor_cron = "* * * * *"
"""
CUTOFF = "2026-01-10T00:00:00Z"


@pytest.fixture(scope="module")
def team(team_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """The deployments, in a pool of their own; nothing is ever promoted in their project."""
    team = project_in(tmp_path_factory.mktemp("resilient"), team_server)
    told = team.shell("deploy", "--json", "--pool", POOL)
    assert told.code == 0, told
    return team


@pytest.fixture
def project(team: Team, tmp_path: Path) -> Team:
    """A project without a champion, for one run."""
    return project_in(tmp_path / "project", team.server)


def project_in(folder: Path, server: PrefectServer, registry: str | None = None) -> Team:
    made = Team(folder, server, TOML + SOON, registry)
    assert made.champion() is None
    log().to_parquet(made.config.parent / "log.parquet")
    return made


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


def tries(team: Team, run: UUID, name: str) -> int:
    """How often a task has begun."""
    (task,) = [task for task in tasks_of(team, run) if task.name.startswith(name)] or [None]
    if task is None:
        return 0
    with team.server.client() as client:
        return sum(state.is_running() for state in client.read_task_run_states(task.id))


def states_of(team: Team, run: UUID) -> list[tuple[str | None, str | None]]:
    with team.server.client() as client:
        return [(state.name, state.message) for state in client.read_flow_run_states(run)]


def told_of(team: Team, run: UUID) -> str:
    return f"{states_of(team, run)} {[(task.name, task.state_name) for task in tasks_of(team, run)]}"


def in_training(team: Team, run: UUID) -> None:
    """Wait until the run trains."""
    wait_until(lambda: "Running" in outcomes(team, run, "train "), seconds=240, told=lambda: told_of(team, run))


def approve(team: Team, run: UUID, challenger: str) -> None:
    """Answer; the challenger then serves, by one entry."""
    before = len(team.entries())
    team.resume(run, decision="approve", approver="ann", reason="good")
    team.until(run, "Completed", seconds=240)
    (entry,) = team.entries()[before:]
    assert (entry.operation, entry.after, entry.actor) == (Operation.PROMOTE, challenger, "ann")


def test_a_worker_killed_in_training_is_noticed_and_another_finishes_the_same_run(
    project: Team, workers: tuple[Program, Program]
) -> None:
    run = project.start("retrain/retrain", cutoff=CUTOFF, requested_by="rita")
    in_training(project, run)
    (at_work,) = [worker for worker in workers if worker.runs(run)]
    (other,) = [worker for worker in workers if worker is not at_work]
    at_work.kill()
    killed = datetime.now(UTC)

    wait_until(lambda: other.runs(run), seconds=240, told=lambda: told_of(project, run))
    question: dict[str, Any] = project.until_asked(run, seconds=300)
    states = states_of(project, run)
    print(f"{(datetime.now(UTC) - killed).total_seconds():.0f} s from the kill to the question: {states}")
    names = [name for name, _ in states]
    assert names.count("Running") == 2
    assert names[names.index("Crashed") :][:2] == ["Crashed", "AwaitingRestart"]
    messages = dict(states)
    assert messages["Crashed"] == "No sign of life for 0.75 minutes: its worker or its machine is gone."
    assert messages["AwaitingRestart"] == "Started again after a crash: what was finished is not done again."
    assert outcomes(project, run, "take snapshot") == ["Completed", "Cached"]
    assert outcomes(project, run, "build features") == ["Completed", "Cached"]
    assert outcomes(project, run, "train ")[-1:] == ["Completed"]
    assert outcomes(project, run, "register challenger") == ["Completed"]
    assert [version.version for version in project.shop.registry.versions()] == [question["challenger"]]

    approve(project, run, question["challenger"])


def test_a_run_that_crashes_again_and_again_begins_a_few_times_and_then_stays_crashed(team: Team) -> None:
    """Without a worker: what a worker would tell the server is told by hand."""
    with team.server.client() as client:
        deployment = client.read_deployment_by_name("monitor/monitor").id
        stuck = client.create_flow_run_from_deployment(deployment, state=Scheduled()).id
        client.set_flow_run_state(stuck, Pending(), force=True)
        run = client.create_flow_run_from_deployment(deployment, state=Scheduled()).id
        for start in (1, 2, 3):
            for state in (Pending(), Running(), Crashed(message=f"crash {start}")):
                client.set_flow_run_state(run, state, force=True)
            if start < 3:
                wait_until(lambda: team.run(run).state.name == "AwaitingRestart", told=lambda: told_of(team, run))
        # When a later crash of another run is mended, the third of this one has been looked at.
        other = client.create_flow_run_from_deployment(deployment, state=Scheduled()).id
        for state in (Pending(), Running(), Crashed()):
            client.set_flow_run_state(other, state, force=True)
        wait_until(lambda: team.run(other).state.name == "AwaitingRestart", told=lambda: told_of(team, other))
        assert [name for name, _ in states_of(team, run)].count("AwaitingRestart") == 2
        assert team.run(run).state.message == "crash 3"
        # Its worker died before the process began.
        wait_until(lambda: team.run(stuck).state.name == "AwaitingRestart", told=lambda: told_of(team, stuck))
        assert [name for name, _ in states_of(team, stuck)] == ["Scheduled", "Pending", "Crashed", "AwaitingRestart"]
        for one in (run, other, stuck):
            client.delete_flow_run(one)


def test_a_server_killed_while_a_run_trains_comes_back_and_run_schedule_and_automation_go_on(
    team: Team, project: Team, workers: tuple[Program, Program]
) -> None:
    run = project.start("retrain/retrain", cutoff=CUTOFF, requested_by="rita")
    in_training(project, run)
    team.server.kill()
    team.server.start()
    back = datetime.now(UTC)
    assert all(worker.alive for worker in workers)

    question = project.until_asked(run, seconds=300)
    # Every minute, and whichever the killed server had planned already.
    checked = wait_until(
        lambda: [one for one in runs_of(team, "monitor/monitor") if one.start_time and one.start_time > back],
        seconds=180,
        told=lambda: str(runs_of(team, "monitor/monitor")),
    )
    assert checked[0].auto_scheduled
    assert team.until(checked[0].id, "Nothing serves", "Completed").state is not None
    approve(project, run, question["challenger"])

    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "feedloop.volume.reached",
        "resource": {"prefect.resource.id": "feedloop.model.feed_ranker"},
        "payload": {"trigger": "volume", "reason": "12,000 new rows", "flight": "20260110-volume"},
    }
    httpx.post(f"{team.server.api}/events", json=[event]).raise_for_status()
    (started,) = wait_until(
        lambda: [one for one in runs_of(team, "retrain/retrain") if one.parameters.get("trigger") == "volume"],
        told=team.server.log.read_text,
    )
    assert started.parameters["reason"] == "12,000 new rows"
    state = team.until(started.id, "Running", seconds=120).state
    assert state is not None
    with team.server.client() as client:
        client.set_flow_run_state(started.id, Cancelling())
    team.until(started.id, "Cancelled")


def test_mlflow_gone_for_a_while_in_a_run_is_sat_out(
    team: Team, workers: tuple[Program, Program], tmp_path: Path
) -> None:
    outage = Outage(tmp_path, team.server.databases)
    with outage.stack:
        there = project_in(tmp_path / "project", team.server, outage.uri)
        run = there.start("retrain/retrain", cutoff=CUTOFF, requested_by="rita")
        in_training(there, run)
        outage.stop()
        gone = datetime.now(UTC)
        # It is tried again after 1, 4, 15 and 30 s, and a little more or less, in vain.
        wait_until(lambda: tries(there, run, "register ") >= 5, seconds=240, told=lambda: told_of(there, run))
        outage.start()
        print(f"MLflow was away for {(datetime.now(UTC) - gone).total_seconds():.0f} s")
        question = there.until_asked(run, seconds=300)
        assert outcomes(there, run, "register ") == ["Completed"]
        assert tries(there, run, "register ") >= 6
        assert [version.version for version in there.shop.registry.versions()] == [question["challenger"]]
        approve(there, run, question["challenger"])


class Outage:
    """An MLflow server that can be stopped and started again at its address."""

    def __init__(self, folder: Path, databases: Databases | None) -> None:
        self._folder = folder / "mlflow"
        self._folder.mkdir()
        self._database = None if databases is None else databases.mlflow_database()
        self._port = free_port()
        self.stack = ExitStack()
        self.uri = self.start()

    def start(self) -> str:
        return self.stack.enter_context(mlflow_server(self._folder, self._database, port=self._port))

    def stop(self) -> None:
        self.stack.close()
