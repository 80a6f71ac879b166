"""Knobs of the gateway: where it listens, what it accepts, how long it waits, what it logs."""

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr

from ranking.values import Knobs


class ServingKnobs(Knobs):
    """The gateway, `feedloop serve`."""

    model_config = ConfigDict(hide_input_in_errors=True)

    host: str = Field(default="127.0.0.1", min_length=1, description="Address it listens on; only this machine.")
    port: int = Field(default=8000, ge=1, le=65_535, description="Port it listens on.")
    workers: PositiveInt = Field(default=1, le=64, description="Processes that answer, each with models of its own.")
    token: SecretStr | None = Field(
        default=None,
        min_length=1,
        repr=False,
        description="Bearer token that /rank, /invocations and /version ask for. Give it as FEEDLOOP_SERVING__TOKEN. "
        "Without one everybody who reaches the port is answered.",
    )
    log: str | None = Field(
        default=None,
        description="Folder or fsspec URI of the logs that evidence is read from. Without one, `online` in the "
        "workspace.",
    )
    folder: str | None = Field(
        default=None,
        description="Local folder of verified models, the last routing and rows not yet in the log. Without one, "
        "`gateway` in the workspace. Whoever may write it decides what is served while MLflow is down.",
    )
    refresh_seconds: PositiveFloat = Field(
        default=5.0, le=300, description="Time between two looks at the ledger: how old a routing can be."
    )
    timeout_milliseconds: PositiveFloat = Field(
        default=500.0,
        le=60_000,
        description="Time for one answer. A challenger gets half of it; then the champion answers instead.",
    )
    slow_milliseconds: PositiveFloat = Field(
        default=200.0, description="An answer that took longer counts as bad in a rollout."
    )
    max_candidates: PositiveInt = Field(default=1_000, le=100_000, description="Candidates of one request.")
    max_body_kilobytes: PositiveInt = Field(default=1_024, le=102_400, description="Size of one request.")
    batch_rows: PositiveInt = Field(
        default=2_000,
        le=65_536,
        description="Requests that wait at the same time are scored together up to so many candidates; "
        "1 scores each alone.",
    )
    batch_milliseconds: NonNegativeFloat = Field(
        default=0.0, le=1_000, description="Time to wait for more requests to score together."
    )
    trust_request_time: bool = Field(
        default=False, description="Let a request say what time it is. For simulations only."
    )
    log_seconds: PositiveFloat = Field(
        default=30.0, le=3_600, description="Age at which logged rows become a parquet file."
    )
    log_rows: PositiveInt = Field(default=500_000, description="Logged candidates that become a file at once.")
    breaker_failures: PositiveInt = Field(
        default=20, description="Failures of a challenger in a row after which it is not asked for a while."
    )
    breaker_seconds: PositiveFloat = Field(default=30.0, description="How long it is not asked.")
    shadow_queue: PositiveInt = Field(
        default=256, le=100_000, description="Requests that may wait for the shadow; more are dropped."
    )
    shadow_timeout_milliseconds: PositiveFloat = Field(
        default=1_000.0, le=60_000, description="Time after which a shadow that does not answer is killed."
    )
    shadow_milliseconds_per_second: PositiveFloat = Field(
        default=500.0, le=1_000, description="Time that the shadow may compute in every second; more is dropped."
    )
    shadow_megabytes: PositiveInt = Field(
        default=2_048, ge=256, description="Memory of the shadow's process; one that takes more is killed."
    )
