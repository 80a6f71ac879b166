"""``feedloop up`` for real: servers, worker and pages start, are found, and are gone afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from deployments.definitions import DEPLOYMENTS
from deployments.stack import processes
from deployments.stack.place import MARK, SAMPLE_FILE, alone, find_settings
from deployments.stack.ports import free, port_for
from deployments.stack.processes import Process, end, marked
from deployments.stack.services import SERVICES
from ranking.errors import SettingsError, StorageError
from settings.loading import load
from tests.servers import ROOT, wait_until
from tests.tasks.mlflow_server import free_port
from tests.tasks.tiny_models import open_shop, with_database

SMALL = """
workspace = "workspace"
[data]
uri = "sample"
[world]
users = 120
items = 60
requests_per_day = 60
[split]
holdout_days = 2
[training]
max_epochs = 1
"""


class Up:
    """A ``feedloop up`` that runs in ``folder``."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        started = len(list(folder.glob("out*.json")))
        self._out, self._err = folder / f"out{started}.json", folder / f"err{started}.txt"
        names = ("prefect", "mlflow", "gateway")
        ports = [word for name in names for word in (f"--{name}-port", str(free_port()))]
        command = [sys.executable, "-m", "deployments.cli", "up", "--json", *ports, *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
            environment |= {"PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)

    @property
    def words(self) -> str:
        return " ".join(self._err.read_text().split())

    def until_ready(self) -> dict[str, Any]:
        def told() -> str:
            assert self.process.poll() is None, self.words
            return self._out.read_text()

        return json.loads(wait_until(told, seconds=120, told=lambda: self.words))  # type: ignore[no-any-return]

    def end(self) -> int:
        """As Ctrl-C does; gives the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=60)

    def left(self) -> list[int]:
        """What it started and is still there."""
        return marked(f"{MARK}={self.workspace}:")

    def pid_of(self, service: str) -> int:
        """The process that was started for a service."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = {int(child) for child in children} & set(marked(f"{MARK}={self.workspace}:{service}"))
        return found


@contextmanager
def running_up(folder: Path) -> Iterator[Up]:
    (folder / "feedloop.toml").write_text(SMALL)
    up = Up(folder)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        end(f"{MARK}={up.workspace}:", lambda: True)


def page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 (our own loopback server)
        return str(answer.read().decode())


def test_one_command_starts_everything_and_ctrl_c_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what an earlier run without servers registered is there, by MLflow's address as well."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    ref = open_shop(with_database(workspace)).register(seed=1)
    with running_up(tmp_path) as up:
        told = up.until_ready()
        addresses = told["addresses"]
        assert page(f"{addresses['prefect']}/api/health") == "true"
        assert "<title>" in page(addresses["prefect"])
        assert page(f"{addresses['mlflow']}/health") == "OK"
        assert "<title>" in page(addresses["mlflow"])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", addresses["mlflow"])
        _sees_the_model(f"{ref.name}-challengers", tmp_path)
        with SyncPrefectClient(told["prefect_api"]) as client:
            found = {deployment.name: deployment for deployment in client.read_deployments()}
            assert set(found) == {deployment.name for deployment in DEPLOYMENTS}
            assert found["retrain"].parameters == {"config": str(tmp_path / "feedloop.toml")}
            (incident,) = client.read_automations_by_name("feedloop: data incident")
            assert "Nobody is told yet: schedules.notification_block names no block" in incident.description
            workers = client.request(
                "POST",
                "/work_pools/{work_pool_name}/workers/filter",
                path_params={"work_pool_name": told["pool"]},
                json={},
            ).json()
            assert [worker["status"] for worker in workers] == ["ONLINE"]
        assert len(up.left()) >= len(addresses)

        assert up.end() == 0, up.words
        assert up.left() == []
        assert all(free(int(address.rpartition(":")[2])) for address in addresses.values())


def _sees_the_model(name: str, folder: Path) -> None:
    """As a notebook would that knows MLflow's address only: its files are there too."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    (version,) = MlflowClient().search_model_versions(f"name = '{name}'")
    there = Path(download_artifacts(f"models:/{name}/{version.version}", dst_path=str(folder)))
    assert (there / "MLmodel").is_file()


@pytest.mark.slow
def test_a_program_that_dies_is_named_with_its_last_words_and_the_others_are_stopped(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        up.until_ready()
        os.kill(up.pid_of("mlflow"), signal.SIGKILL)
        assert up.process.wait(timeout=60) == 9
        assert "The MLflow server has ended by itself (signal SIGKILL)" in up.words
        assert "mlflow.log" in up.words
        assert "Uvicorn running on" in up.words
        assert up.left() == []
        json.loads((tmp_path / "out0.json").read_text())


@pytest.mark.slow
def test_a_run_of_a_flow_is_ended_too_and_what_a_killed_stack_left_is_ended_by_the_next(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        told = up.until_ready()
        run = _start_retraining(told["prefect_api"])
        wait_until(lambda: _run(told["prefect_api"], run).state_name == "Running", seconds=60)
        assert up.end() == 0, up.words
        assert up.left() == []
    with running_up(tmp_path) as killed:
        killed.until_ready()
        killed.process.kill()
        killed.process.wait()
        assert killed.left() != []
        again = Up(tmp_path)
        again.until_ready()
        second = Up(tmp_path)
        assert second.process.wait(timeout=60) == 8
        assert "Another `feedloop up` runs in" in second.words
        assert "An earlier `feedloop up` was killed here;" in again.words
        assert again.end() == 0
        assert again.left() == []


@pytest.mark.slow
def test_a_retraining_that_the_page_starts_runs_on_its_worker_and_asks(tmp_path: Path) -> None:
    with running_up(tmp_path) as up:
        told = up.until_ready()
        run = _start_retraining(told["prefect_api"])

        def ended() -> FlowRun | None:
            found = _run(told["prefect_api"], run)
            return found if found.state is not None and (found.state.is_final() or found.state.is_paused()) else None

        found = wait_until(ended, seconds=180, told=(up.workspace / "logs" / "worker.log").read_text)
        assert found.state is not None
        assert found.state.is_completed() or found.state.is_paused(), found.state
        assert up.end() == 0


def _start_retraining(api: str) -> Any:
    with SyncPrefectClient(api) as client:
        found = client.read_deployment_by_name("retrain/retrain")
        return client.create_flow_run_from_deployment(found.id, parameters=found.parameters, state=Scheduled()).id


def _run(api: str, run: Any) -> FlowRun:
    with SyncPrefectClient(api) as client:
        return client.read_flow_run(run)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        yield somebody.getsockname()[1]


def test_a_named_port_that_is_in_use_is_refused_with_its_option(taken: int) -> None:
    with pytest.raises(SettingsError, match=rf"Port {taken} on 127.0.0.1 is in use.*name another with --mlflow-port"):
        port_for("MLflow server", 5000, taken, "--mlflow-port", set())


def test_the_next_free_port_is_taken_when_the_usual_one_is_in_use(taken: int) -> None:
    found = port_for("MLflow server", taken, None, "--mlflow-port", {taken + 1})
    assert found > taken + 1
    assert free(found)


def test_two_services_do_not_get_one_port() -> None:
    port = free_port()
    with pytest.raises(SettingsError, match=f"Port {port}"):
        port_for("MLflow server", 5000, port, "--mlflow-port", {port})


def test_without_a_settings_file_the_stack_plays_on_the_sample_and_says_so_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config, settings, written = find_settings(None)
    assert (config, written) == (tmp_path / ".feedloop" / "feedloop.toml", True)
    assert config.read_text() == SAMPLE_FILE
    assert settings.is_sample
    # A worker that reads the file finds the workspace that commands without a file use here.
    assert load(config).workspace == settings.workspace == load().workspace
    config.write_text(f"{SAMPLE_FILE}\n[approval]\nmode = 'auto'\n")
    again, changed, written = find_settings(None)
    assert (again, changed.approval.mode, written) == (config, "auto", False)


def test_a_workspace_that_is_no_folder_here_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "feedloop.toml"
    file.write_text('workspace = "s3://bucket/feedloop"')
    with pytest.raises(SettingsError, match=r"is no folder on this machine.*docs/production.md"):
        find_settings(str(file))


def test_two_stacks_in_one_workspace_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(StorageError, match="Another `feedloop up` runs in"), alone(tmp_path):
        pass


def test_a_program_is_ended_with_what_it_put_into_another_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker does with the run of a flow; this one ignores SIGTERM besides."""
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    )
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True, stdout=sys.stdout)\n"
        "time.sleep(99)"
    )
    mark = f"{MARK}={tmp_path}:test"
    environment = dict(os.environ) | dict([mark.split("=", 1)])
    process = Process("program", ["-c", program], environment, mark, tmp_path / "program.log")
    wait_until(lambda: process.last_words() == "up", seconds=20)
    assert len(marked(mark)) == 2
    monkeypatch.setattr(processes, "LEFT_BEHIND_SECONDS", 0.3)
    process.stop(lambda: False)
    assert marked(mark) == []
    assert process.ended_with == -signal.SIGTERM


def test_no_service_listens_beyond_this_machine(tmp_path: Path) -> None:
    from deployments.stack.place import Place

    ports = {service.name: 1000 for service in SERVICES}
    place = Place(tmp_path / "feedloop.toml", load().model_copy(update={"workspace": str(tmp_path)}), ports, "feedloop")
    for service in SERVICES:
        command = " ".join(service.command(place))
        assert "0.0.0.0" not in command  # noqa: S104 (looked for, not used)
        assert service.usual_port is None or "--host 127.0.0.1" in command
