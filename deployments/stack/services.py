"""What ``feedloop up`` starts, as a table.

A new service is one more row of :data:`SERVICES`.
"""

import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deployments.stack.place import Place
from deployments.stack.ports import HOST

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Environment = dict[str, str]
WORKER_TYPE = "process"


def _always(place: Place) -> str | None:
    return None


def _nothing(place: Place) -> Environment:
    return {}


@dataclass(frozen=True)
class Service:
    """One row of the table: a program of this Python, and how to know that it is ready."""

    name: str
    title: str
    command: Callable[[Place], list[str]]
    """Arguments of ``python``."""
    ready: Callable[[Place, datetime], bool]
    """Asked again and again with the moment of the start, until it says yes."""
    environment: Callable[[Place], Environment] = _nothing
    not_wanted: Callable[[Place], str | None] = _always
    """Why it is not started, in words; None when it is."""
    usual_port: int | None = None
    page: str = ""
    """Path of the page that people open."""
    after: tuple[str, ...] = ()
    """Services that have to be ready first; the flows are registered before a service that comes after Prefect."""
    option: str = field(default="", kw_only=True)
    """The option that names its port."""

    def address(self, place: Place) -> str | None:
        """Where people and programs find it."""
        return None if self.usual_port is None else f"http://{HOST}:{place.ports[self.name]}{self.page}"


def _answers(path: str, name: str, *also: int) -> Callable[[Place, datetime], bool]:
    """It is ready when this page answers, be it that it wants a password; ``also`` are other codes that will do."""

    def ask(place: Place, since: datetime) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{place.ports[name]}{path}", timeout=2):
                return True
        except urllib.error.HTTPError as error:
            return error.code in (401, 403, *also)
        except (OSError, TimeoutError):
            return False

    return ask


def _prefect(place: Place) -> list[str]:
    return ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(place.ports["prefect"])]


def _prefect_environment(place: Place) -> Environment:
    home = place.workspace / "prefect"
    return {
        # The same file as that of runs without a server, so that those are seen too.
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_UI_ENABLED": "true",
        # The newer pages call a host for analytics; the classic ones call nobody.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Its pages are written out at the start, and the place of the package may be read-only.
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }


def _mlflow(place: Place) -> list[str]:
    port = str(place.ports["mlflow"])
    # One worker process: more would each poll one SQLite file.  Artifacts keep their place in the workspace, so that
    # commands that open the store without the server find them.
    return ["-m", "mlflow", "server", "--host", HOST, "--port", port, "--workers", "1", "--no-serve-artifacts"]


def _mlflow_environment(place: Place) -> Environment:
    from tasks.adapters.mlflow_store import embedded_uri

    return {
        # Not as arguments: an address may carry a password, and everybody can list arguments.
        "MLFLOW_BACKEND_STORE_URI": place.settings.registry.tracking_uri or embedded_uri(place.workspace),
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(place.workspace / "artifacts"),
        # Its job runner is seven more processes that nothing here needs.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _mlflow_elsewhere(place: Place) -> str | None:
    uri = place.settings.registry.tracking_uri
    if uri is None or not uri.startswith(("http://", "https://", "databricks")):
        return None
    from settings.addresses import shown

    return f"registry.tracking_uri names a server already: {shown(uri)}"


def _worker(place: Place) -> list[str]:
    return ["-m", "prefect", "worker", "start", "--pool", place.pool, "--type", WORKER_TYPE, "--name", "feedloop-up"]


def _worker_environment(place: Place) -> Environment:
    return {
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "feedloop",
        # A person who has pressed a button waits for it.
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }


def _worker_online(place: Place, since: datetime) -> bool:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return any(beat >= since for beat in _heartbeats(client, place.pool))


def _heartbeats(client: "SyncPrefectClient", pool: str) -> list[datetime]:
    answer = client.request(
        "POST", "/work_pools/{work_pool_name}/workers/filter", path_params={"work_pool_name": pool}, json={}
    )
    told = [worker["last_heartbeat_time"] for worker in answer.json() if worker["status"] == "ONLINE"]
    return [datetime.fromisoformat(moment).astimezone(UTC) for moment in told]


def _gateway(place: Place) -> list[str]:
    port = str(place.ports["gateway"])
    return ["-m", "deployments.cli", "serve", "--config", str(place.config), "--host", HOST, "--port", port]


def _no_gateway(place: Place) -> str | None:
    from deployments.cli_app import app

    has = any(command.name == "serve" for command in app.registered_commands)
    return None if has else "this feedloop has no command `serve`"


SERVICES: tuple[Service, ...] = (
    Service(
        name="prefect",
        title="Prefect server",
        command=_prefect,
        environment=_prefect_environment,
        ready=_answers("/api/health", "prefect"),
        usual_port=4200,
        option="--prefect-port",
    ),
    Service(
        name="mlflow",
        title="MLflow server",
        command=_mlflow,
        environment=_mlflow_environment,
        not_wanted=_mlflow_elsewhere,
        ready=_answers("/health", "mlflow"),
        usual_port=5000,
        option="--mlflow-port",
    ),
    Service(
        name="worker",
        title="worker",
        command=_worker,
        environment=_worker_environment,
        ready=_worker_online,
        after=("prefect", "mlflow"),
    ),
    Service(
        name="gateway",
        title="scoring gateway",
        command=_gateway,
        not_wanted=_no_gateway,
        # Without a champion it answers 503, and begins to serve when there is one.
        ready=_answers("/health", "gateway", 503),
        usual_port=8000,
        option="--gateway-port",
        after=("mlflow",),
    ),
)
