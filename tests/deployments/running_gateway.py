"""A real gateway, as ``feedloop serve`` starts it, on loopback, with a real registry of tiny models."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.ledger import Operation
from ranking.results import ModelRef
from ranking.rollout import Rollout
from ranking.rollout_changes import begin
from ranking.strategies import Canary, Strategy
from tasks.adapters.ledger import Draft
from tests.servers import ROOT, wait_until
from tests.tasks.mlflow_server import free_port
from tests.tasks.tiny_models import NOW, Shop, open_shop, tiny_bundle, with_database

ITEMS = [f"item-{number}" for number in range(1, 7)]
CONTEXT = {"device": "phone"}


@dataclass
class Answer:
    """A status and what came with it."""

    status: int
    body: Any
    headers: dict[str, str]


@dataclass
class Place:
    """A project folder with a registry, a ledger, and a settings file."""

    folder: Path
    knobs: dict[str, Any] = field(default_factory=dict)
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        workspace = self.folder / ".feedloop"
        workspace.mkdir(parents=True)
        with_database(workspace)
        self.shop: Shop = open_shop(workspace, self.tracking_uri)
        self.entries = 0
        self.write_settings()

    def write_settings(self) -> None:
        told = {"refresh_seconds": 0.1, "log_seconds": 0.5, **self.knobs}
        lines = [f"{name} = {json.dumps(value)}" for name, value in told.items()]
        registry = f'[registry]\ntracking_uri = "{self.tracking_uri}"\n' if self.tracking_uri else ""
        text = f'[data]\nuri = "log.parquet"\n{registry}[serving]\n' + "\n".join(lines)
        (self.folder / "feedloop.toml").write_text(text + "\n")

    @property
    def online(self) -> Path:
        return self.folder / ".feedloop" / "online"

    @property
    def journals(self) -> Path:
        return self.folder / ".feedloop" / "gateway" / "journals"

    def add(self, seed: int) -> ModelRef:
        return self.shop.registry.register(**registration(self.shop, seed))

    def promote(self, ref: ModelRef) -> None:
        """The ledger says that this one serves."""
        self._append(Operation.PROMOTE, before=None, after=ref.version, ref=ref)

    def roll_out(self, champion: ModelRef, challenger: ModelRef, rollout: Rollout) -> None:
        """The ledger says where a rollout stands."""
        self._append(
            Operation.ROLLOUT,
            before=champion.version,
            after=champion.version,
            ref=challenger,
            rollout=rollout.model_dump(mode="json"),
        )

    def _append(
        self,
        operation: Operation,
        *,
        before: str | None,
        after: str | None,
        ref: ModelRef,
        rollout: dict[str, Any] | None = None,
    ) -> None:
        self.entries += 1
        self.shop.ledger.append(
            Draft(
                operation=operation,
                before=before,
                after=after,
                subject=ref.version,
                digest=ref.digest,
                evidence_digest=None,
                forced=False,
                actor="ann",
                reason="a test",
                at=NOW + timedelta(minutes=self.entries),
                rollout=rollout,
            ),
            self.shop.ledger.head(),
        )

    def logged(self, log: str) -> pa.Table:
        """Every row of a log."""
        import pyarrow.dataset as ds

        return ds.dataset(self.online / log, format="parquet", partitioning="hive").to_table()


def registration(shop: Shop, seed: int) -> dict[str, Any]:
    from tests.tasks.tiny_models import sample_rows, snapshot, training_of

    bundle = tiny_bundle(seed)
    folder = shop.workspace / "bundles" / f"{seed}"
    if not folder.exists():
        bundle.save(folder)
    return {
        "bundle_folder": folder,
        "training": training_of(bundle),
        "snapshot": snapshot(),
        "sample": sample_rows(),
        "files": {},
        "tags": {},
        "request": f"request-{seed}",
    }


def rollout(stage: int = 0, *, strategy: Strategy | None = None, **changes: Any) -> Rollout:
    """Version 2 on its way to version 1's users."""
    begun = begin("r1", strategy or Canary(), champion="1", challenger="2", actor="ann", reason="AUC rose", now=NOW)
    return begun.model_copy(update={"stage": stage, **changes})


class Running:
    """A started gateway."""

    def __init__(self, place: Place, program: list[str], environment: dict[str, str] | None = None) -> None:
        self.place = place
        self.token = place.knobs.get("token")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = place.folder / f"gateway-{self.port}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--port", str(self.port)],
                cwd=place.folder,
                env=_environment(place) | (environment or {}),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, seconds: float = 60) -> "Running":
        wait_until(self._is_ready, seconds=seconds, told=self.log.read_text)
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(OSError):
            return self.get("/health").status == 200
        return False

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask(path, None, {**self._authorization(), **headers})

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._ask(path, content, {"Content-Type": "application/json", **self._authorization(), **headers})

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def rank(self, user: str | int = 3, items: list[Any] | None = None, **more: Any) -> Answer:
        return self.post("/rank", question(user, items, **more))

    def _ask(self, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            return ask(connection, path, content, headers)

    @contextmanager
    def connected(self) -> "Iterator[Callable[[dict[str, Any]], Answer]]":
        """Asks ``/rank`` over one connection, as a service would."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json", **self._authorization()}
        with closing(connection):
            yield lambda body: ask(connection, "/rank", json.dumps(body).encode(), headers)

    def until_entry(self, number: int | None = None, *, seconds: float = 30) -> dict[str, Any]:
        """Wait until the gateway serves what the ledger says."""
        wanted = self.place.entries if number is None else number

        def served() -> dict[str, Any] | None:
            answer = self.get("/version")
            return answer.body if answer.status == 200 and answer.body["entry"] == wanted else None

        return wait_until(served, seconds=seconds, told=self.log.read_text)

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            if with_signal == signal.SIGKILL:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.send_signal(with_signal)
        return self.process.wait(timeout=60)


def _environment(place: Place) -> dict[str, str]:
    # It runs in the project's folder, and some of its programs are tests.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"FEEDLOOP_CONFIG": str(place.folder / "feedloop.toml"), "PYTHONPATH": path}


def ask(connection: http.client.HTTPConnection, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
    connection.request("GET" if content is None else "POST", path, content, headers)
    response = connection.getresponse()
    body, kind = response.read(), response.headers.get("content-type", "")
    return Answer(response.status, json.loads(body) if "json" in kind else body.decode(), dict(response.headers))


def question(user: str | int = 3, items: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"user": user, "items": items or ITEMS, "context": CONTEXT, **more}


def scores_of(answer: Answer) -> dict[Any, float]:
    return {item["item"]: item["score"] for item in answer.body["items"]}


@contextmanager
def running(place: Place, *program: str, environment: dict[str, str] | None = None) -> Iterator[Running]:
    """A gateway that answers, stopped at the end."""
    started = Running(place, list(program or ("-m", "deployments.cli", "serve")), environment)
    try:
        yield started.wait()
    finally:
        with suppress(ProcessLookupError):
            started.stop()
        with suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)


def expected_scores(seed: int, user: str | int, items: list[Any], device: str | None = "phone") -> dict[str, float]:
    """What the model of a seed gives to a request without further features."""
    rows = pa.table(
        {
            "user_id": pa.array([user] * len(items)),
            "item_id": pa.array(items),
            "age": pa.nulls(len(items), pa.float64()),
            "device": pa.array([device] * len(items), pa.string()),
        }
    )
    return dict(zip(items, np.asarray(tiny_bundle(seed).score(rows)).tolist(), strict=True))
