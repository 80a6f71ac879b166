"""What runs where: the deployments of feedloop as a table, and how they are registered.

A new deployment is one more row of :data:`DEPLOYMENTS`.
"""

from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from pydantic import Field, JsonValue, PositiveInt

from ranking.errors import SettingsError
from ranking.values import Value
from settings.effects import ScheduleKnobs

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate

POOL = "feedloop"
"""The work pool that ``feedloop deploy`` makes when nobody names another."""

TAG = "feedloop"

ENVIRONMENT = {"PREFECT_LOGGING_EXTRA_LOGGERS": "feedloop", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
"""What a run needs besides the worker's own environment: feedloop's log lines in the Prefect UI, and a sign of life
so often (s) that a killed worker is noticed."""


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
    cron: Literal["retrain_cron", "monitor_cron", "refresh_cron", "advance_cron"] | None = Field(
        default=None, description="Knob under [schedules] that says when it starts by itself; None is never."
    )
    scheduled_with: dict[str, JsonValue] = Field(default={}, description="Parameters of the runs that the cron starts.")

    @property
    def full_name(self) -> str:
        """Its name in Prefect, such as propose/promote."""
        return f"{resolve_name(self.flow).name}/{self.name}"

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
        cron="retrain_cron",
        scheduled_with={"trigger": "schedule"},
    ),
    Deployment(
        name="monitor",
        flow="flows.monitor:monitor",
        description="Check the last whole day: data, drift, performance. Decides whether to retrain; trains nothing.",
        # Two checks at once would decide twice; the later one has nothing to add.
        runs_at_once=1,
        when_full="CANCEL_NEW",
        cron="monitor_cron",
    ),
    Deployment(
        name="refresh",
        flow="flows.refresh:refresh",
        description="Write the features that servers look up, for champion, challenger and the version before.",
        # The later of two at once has the newer rows anyway.
        runs_at_once=1,
        when_full="CANCEL_NEW",
        cron="refresh_cron",
    ),
    Deployment(
        name="advance",
        flow="flows.advance:advance",
        description="One tick of a rollout: at most one step, decided on the evidence of its present stage.",
        # Two ticks at once would read the same evidence; the later one has nothing to add.
        runs_at_once=1,
        when_full="CANCEL_NEW",
        cron="advance_cron",
    ),
    Deployment(
        name="steer",
        flow="flows.steer:steer",
        description="Pause, resume or abort the rollout that is on its way. Needs no approval.",
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
    Deployment(
        name="replay",
        flow="flows.replay:replay",
        description="What would the thresholds of today have decided about every stored comparison? Changes nothing.",
    ),
)


def register(deployment: Deployment, *, config: Path, pool: str, schedules: ScheduleKnobs) -> UUID:
    """Create or update a deployment at the configured Prefect API; returns its id.

    Args:
        deployment: the row.
        config: settings file, as the worker's machine sees it.
        pool: an existing work pool.
        schedules: when it starts by itself.  Not optional: registering without a schedule takes away the one there is.

    Raises:
        SettingsError: Prefect cannot read the cron.
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
    found: UUID = flow.to_deployment(
        deployment.name,
        description=deployment.description,
        parameters=parameters,
        tags=[TAG],
        concurrency_limit=limit,
        work_pool_name=pool,
        job_variables={"env": ENVIRONMENT},
        entrypoint_type=EntrypointType.MODULE_PATH,
        schedules=_schedules(deployment, schedules),
    ).apply()
    return found


def _schedules(deployment: Deployment, knobs: ScheduleKnobs) -> "list[DeploymentScheduleCreate]":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    if deployment.cron is None:
        return []
    cron = getattr(knobs, deployment.cron)
    try:
        schedule = CronSchedule(cron=cron, timezone=knobs.timezone)
    except ValueError as error:
        raise SettingsError(f"schedules.{deployment.cron} = {cron!r} is no cron that Prefect can read.") from error
    # The slug names it, so that registering again changes this schedule and makes no second one.
    return [DeploymentScheduleCreate(schedule=schedule, slug=TAG, parameters=deployment.scheduled_with)]


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
