"""What runs where: the deployments of feedloop as a table, and how they are registered.

A new deployment is one more row of :data:`DEPLOYMENTS`.
"""

from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, PositiveInt

from ranking.values import Value

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "feedloop"
"""The work pool that ``feedloop deploy`` makes when nobody names another."""

TAG = "feedloop"

ENVIRONMENT = {"PREFECT_LOGGING_EXTRA_LOGGERS": "feedloop"}
"""What a run needs besides the worker's own environment: feedloop's log lines in the Prefect UI."""


class Deployment(Value):
    """One row of the table: a flow, under a name, with how it is started."""

    name: str = Field(description="Its name in Prefect, after the flow's: propose/promote.")
    flow: str = Field(description="Module and name. The worker imports it, from an installed package or a checkout.")
    description: str
    parameters: dict[str, JsonValue] = Field(default={}, description="Defaults of the form, besides the config.")
    runs_at_once: PositiveInt | None = Field(default=None, description="None is as many as there are.")
    when_full: Literal["ENQUEUE", "CANCEL_NEW"] = Field(
        default="ENQUEUE", description="What becomes of a run that finds no free place: it waits, or is cancelled."
    )

    @property
    def entrypoint(self) -> str:
        """The flow in Prefect's spelling of a module path."""
        return self.flow.replace(":", ".")


DEPLOYMENTS: tuple[Deployment, ...] = (
    Deployment(
        name="retrain",
        flow="flows.retrain:retrain",
        description="One turn of the loop: train a challenger, compare it, and ask for its promotion.",
        # A run that waits for an approval is suspended and holds no place; when it goes on it queues for one.
        runs_at_once=1,
    ),
    Deployment(
        name="promote",
        flow="flows.propose:propose",
        description="Ask for the promotion of a challenger that was compared already.",
    ),
    Deployment(
        name="rollback",
        flow="flows.rollback:rollback",
        description="Put the previous champion, or a named one, back. Needs no approval.",
    ),
)


def register(deployment: Deployment, *, config: Path, pool: str) -> str:
    """Create or update a deployment at the configured Prefect API; returns its full name, such as propose/promote.

    Args:
        deployment: the row.
        config: settings file, as the worker's machine sees it.
        pool: an existing work pool.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.types.entrypoint import EntrypointType

    flow = resolve_name(deployment.flow)
    limit = None
    if deployment.runs_at_once is not None:
        limit = ConcurrencyLimitConfig(
            limit=deployment.runs_at_once, collision_strategy=ConcurrencyLimitStrategy(deployment.when_full)
        )
    parameters: dict[str, Any] = {**deployment.parameters, "config": str(config)}
    flow.to_deployment(
        deployment.name,
        description=deployment.description,
        parameters=parameters,
        tags=[TAG],
        concurrency_limit=limit,
        work_pool_name=pool,
        job_variables={"env": ENVIRONMENT},
        entrypoint_type=EntrypointType.MODULE_PATH,
    ).apply()
    return f"{flow.name}/{deployment.name}"


def ensure_pool(client: "SyncPrefectClient", name: str) -> bool:
    """Make a work pool of type ``process`` if there is none of that name; True when it was made."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:
            return False
        return True
    return False
