"""A team's project: a settings file, a registry with a few tiny models, and a Prefect server where runs wait."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled

from deployments.cli import app
from ranking.ledger import LedgerEntry
from ranking.results import ModelRef
from settings.loading import load
from tests.servers import ROOT, PrefectServer, wait_until
from tests.tasks.tiny_models import Shop, evidence_about, open_shop, with_database


@dataclass(frozen=True)
class Team:
    """A project and its server."""

    folder: Path
    server: PrefectServer
    settings: str = ""
    registry: str | None = None
    """Tracking URI of an MLflow server; without one, what the tests run on: a file, or a server on PostgreSQL."""

    @cached_property
    def config(self) -> Path:
        return self.write("feedloop.toml", self.settings)

    @cached_property
    def shop(self) -> Shop:
        workspace = self.folder / "workspace"
        workspace.mkdir(parents=True)
        if self.tracking_uri is not None:
            return open_shop(workspace, self.tracking_uri)
        return open_shop(with_database(workspace))

    @cached_property
    def tracking_uri(self) -> str | None:
        if self.registry is None and self.server.databases is not None:
            return self.server.databases.mlflow(self.folder)
        return self.registry

    def write(self, name: str, settings: str) -> Path:
        """Another settings file for the same registry."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        registry = "" if self.tracking_uri is None else f'\n[registry]\ntracking_uri = "{self.tracking_uri}"\n'
        file.write_text(f'workspace = "workspace"\n{settings}{registry}')
        return file

    def challenger(self, seed: int, champion: ModelRef | None = None) -> ModelRef:
        """A registered version with evidence that it is better than ``champion``."""
        ref = self.shop.register(seed)
        policy = load(self.config).policy_digest
        evidence = evidence_about(ref, champion).model_copy(update={"policy_digest": policy})
        self.shop.registry.record(ref, evidence)
        return ref

    def entries(self) -> tuple[LedgerEntry, ...]:
        return self.shop.ledger.entries()

    def champion(self) -> str | None:
        entries = self.entries()
        return entries[-1].after if entries else None

    def digest(self, ref: ModelRef) -> str:
        """Of the newest evidence about a version."""
        evidence = self.shop.registry.evidence(ref)
        assert evidence is not None
        return evidence.digest

    def last_about(self, ref: ModelRef) -> LedgerEntry:
        return next(entry for entry in reversed(self.entries()) if entry.subject == ref.version)

    def start(self, deployment: str, **parameters: Any) -> UUID:
        """Start a run of a deployment, as the UI or a schedule would."""
        with self.server.client() as client:
            found = client.read_deployment_by_name(deployment)
            run = client.create_flow_run_from_deployment(
                found.id, parameters={"config": str(self.config), **parameters}, state=Scheduled()
            )
        return run.id

    def ask(self, ref: ModelRef, **parameters: Any) -> UUID:
        """Ask for a promotion through the deployment ``promote``."""
        return self.start("propose/promote", challenger=ref.version, **parameters)

    def run(self, run_id: UUID) -> FlowRun:
        with self.server.client() as client:
            return client.read_flow_run(run_id)

    def until(self, run_id: UUID, *names: str, seconds: float = 120) -> FlowRun:
        """Wait until the run is in a state of one of these names."""

        def there() -> FlowRun | None:
            run = self.run(run_id)
            assert run.state is not None
            assert run.state.name in names or run.state.name not in {"Failed", "Crashed"}, run.state.message
            return run if run.state.name in names else None

        return wait_until(there, seconds=seconds, told=lambda: f"{self.run(run_id).state}, not in {names}")

    def inputs(self, run_id: UUID) -> dict[str, Any]:
        """What Prefect keeps beside the run: questions, forms, answers."""
        with self.server.client() as client:
            found = client.filter_flow_run_input(run_id, key_prefix="", limit=200, exclude_keys=set())
        return {item.key: item.decoded_value for item in found}

    def until_asked(self, run_id: UUID, number: int = 1, seconds: float = 120) -> dict[str, Any]:
        """Wait until the run shows the form of its question ``number``; gives the question."""

        def shown() -> dict[str, Any] | None:
            run = self.run(run_id)
            assert run.state is not None
            assert not run.state.is_final(), run.state
            inputs = self.inputs(run_id)
            key = next((key for key in inputs if key.endswith(f"-{number}-schema")), None)
            there = key is not None and run.state.is_paused()
            return inputs[f"{key.removesuffix('-schema')}-question"] if key is not None and there else None

        return wait_until(shown, seconds=seconds, told=lambda: f"{self.run(run_id).state}: {self.inputs(run_id)}")

    def resume(self, run_id: UUID, **answer: str) -> dict[str, Any]:
        """Answer through the API, as any program would; gives the API's own answer."""
        with self.server.client() as client:
            found = client.resume_flow_run(run_id, run_input=answer or None)
        return found.model_dump(mode="json")

    def shell(self, *arguments: str, **environment: str) -> "Told":
        """Run a command in a process of its own, as at a shell without a terminal."""
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli", *arguments, "--config", str(self.config)],
            cwd=self.folder,
            env=os.environ | self.server.client_environment | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Told(done.returncode, done.stdout, " ".join(done.stderr.split()))


def runs_of(team: Team, deployment: str) -> list[FlowRun]:
    """Every run of a deployment, those that a schedule has planned too."""
    with team.server.client() as client:
        found = client.read_deployment_by_name(deployment)
        return client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[found.id])))


@dataclass(frozen=True)
class Shell:
    """Commands run in this process: the same, without seconds of imports."""

    capfd: pytest.CaptureFixture[str]

    def __call__(self, team: Team, *arguments: str, server: bool = True) -> "Told":
        self.capfd.readouterr()
        with temporary_settings({PREFECT_API_URL: team.server.api if server else None}):
            code = app([*arguments, "--config", str(team.config)], standalone_mode=False)
        captured = self.capfd.readouterr()
        return Told(code, captured.out, " ".join(captured.err.split()))


@dataclass(frozen=True)
class Told:
    """What a command said: exit code, standard output, and standard error on one line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found
