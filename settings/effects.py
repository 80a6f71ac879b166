"""Knobs of the effects: where the data are, where models live, who approves."""

from typing import Literal, TypedDict
from zoneinfo import available_timezones

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

from ranking.approval import ApprovalRules
from ranking.features import ColumnKnobs
from ranking.values import Knobs

SAMPLE = "sample"
"""The value of ``data.uri`` that means the seeded sample feed in the workspace."""

CRON = r"^\s*(\S+\s+){4}\S+\s*$"
"""Five fields; Prefect checks what is in them."""


class DataKnobs(Knobs):
    """The interaction log and how much of it to read."""

    uri: str = Field(
        default=SAMPLE,
        min_length=1,
        description="Parquet file, folder, partitioned data set or glob; a path or any fsspec URI (s3://…). "
        "A relative path starts at the folder of feedloop.toml. `sample` is the seeded sample feed.",
    )
    columns: ColumnKnobs = Field(default=ColumnKnobs(), description="Roles of the columns.")
    window_days: PositiveFloat = Field(default=60.0, description="Read the last so many days before the cut-off.")
    label_delay_hours: NonNegativeFloat = Field(
        default=0.0, description="Time after an impression at which its label is known for certain."
    )
    late_after_hours: NonNegativeFloat = Field(
        default=6.0,
        description="A row that arrives so long after its time is late; needs data.columns.delivered. It holds for "
        "champions from their first check on.",
    )
    warehouse: str = Field(
        default="duckdb://?memory_limit=4GB",
        description="Engine that reads and prepares the data: duckdb://?memory_limit=2GB&threads=2.",
    )


class RegistryKnobs(Knobs):
    """The MLflow tracking store and model registry, and the ledger of promotions."""

    # An address may carry a password, which neither a repr nor an error may tell.
    model_config = ConfigDict(hide_input_in_errors=True)

    tracking_uri: str | None = Field(
        default=None,
        repr=False,
        description="MLflow tracking URI. Without one, an SQLite store in the workspace, with no server.",
    )
    model_name: str = Field(
        default="feed_ranker", min_length=1, pattern=r"^[^/:]+$", description="Name of the registered model."
    )
    ledger_uri: str | None = Field(
        default=None,
        repr=False,
        pattern=r"^postgresql(\+psycopg)?://",
        description="SQL database of the ledger of promotions, postgresql://…; without one the ledger lies in MLflow. "
        "Give the password by PGPASSWORD or ~/.pgpass.",
    )


class ApprovalKnobs(ApprovalRules):
    """Who lets a challenger become champion, and how long they may take."""

    mode: Literal["ask", "auto"] = Field(
        default="ask",
        description="ask: a person approves every promotion. auto: a PROMOTE of high confidence needs nobody.",
    )
    timeout_hours: PositiveFloat = Field(
        default=24.0 * 3,
        le=24 * 30,
        description="A question that nobody answers, or an approval that nobody uses, ends after this time, and the "
        "champion stays.",
    )


class ScheduleKnobs(Knobs):
    """When runs start by themselves, once `feedloop deploy` has registered them."""

    timezone: str = Field(default="UTC", description="Time zone of the crons, such as Europe/Berlin.")
    retrain_cron: str = Field(default="0 0 * * 0", pattern=CRON, description="When a retraining is due.")
    monitor_cron: str = Field(
        default="0 3 * * *",
        pattern=CRON,
        description="When the last whole day (UTC) is checked: late enough for its rows to have arrived.",
    )
    refresh_cron: str = Field(
        default="5 * * * *",
        pattern=CRON,
        description="When the features that servers look up are written anew. With history.grain = day once a day, "
        "such as 5 0 * * *, is enough.",
    )
    advance_cron: str = Field(
        default="*/15 * * * *",
        pattern=CRON,
        description="When a rollout is looked at. No step can come sooner, also not back.",
    )
    absence_hours: PositiveFloat = Field(
        default=36.0, le=24 * 30, description="No successful check for this long raises the alarm of absence."
    )
    repeat_minutes: PositiveFloat = Field(
        default=60.0, le=24 * 60, description="Events of one kind within this time start one run."
    )
    lost_minutes: float = Field(
        default=10.0,
        ge=0.6,
        le=24 * 60,
        description="A run that gives no sign of life for this long counts as crashed: its worker is gone. "
        "Longer than Prefect itself is ever away, or a run that is well is started a second time.",
    )
    restart_minutes: float = Field(
        default=1.0,
        ge=0.2,
        le=24 * 60,
        description="A crashed run is started again after this time, unless somebody was faster.",
    )
    max_starts: PositiveInt = Field(
        default=4,
        le=20,
        description="A crashed run is started again until it has begun this often. Going on after an answer counts.",
    )
    notification_block: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+$",
        description="Prefect notification block, such as slack-webhook/ranking-team, that is told of a waiting "
        "approval, a failed run, a data incident and missing checks. Without one they only show in Prefect's event "
        "feed.",
    )

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("no time zone has this name; names look like UTC or Europe/Berlin")
        return name


class Store(TypedDict):
    """Where models are: what every task that touches the registry takes."""

    registry: RegistryKnobs
    workspace: str


class Engine(TypedDict):
    """Where rows are prepared: what every task that builds features takes."""

    warehouse: str
    workspace: str
