"""``Settings``: every knob of feedloop, composed from the groups that own them."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, JsonValue, NonNegativeInt
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from ranking.data_quality.knobs import QualityKnobs
from ranking.drift import DriftKnobs
from ranking.errors import SettingsError
from ranking.features import FeatureSpec, HistoryKnobs, Schema
from ranking.models import DeepMLPKnobs, ModelKnobs
from ranking.performance import PerformanceKnobs
from ranking.retention import RetentionKnobs
from ranking.split import SplitKnobs
from ranking.training import TrainingKnobs
from ranking.triggers.memory import TriggerKnobs
from ranking.values import digest
from ranking.verdict import GateKnobs
from ranking.world import WorldKnobs
from settings.effects import ApprovalKnobs, DataKnobs, Engine, RegistryKnobs, ScheduleKnobs, Store
from settings.rollout import RolloutSettings
from settings.serving import ServingKnobs

PREFIX = "FEEDLOOP_"


class Settings(BaseSettings):
    """All knobs.  Order of precedence: arguments, then ``FEEDLOOP_…`` variables, then ``feedloop.toml``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # an address may carry a password; `settings.loading` tells what may be told
    )

    workspace: str = Field(
        default=".feedloop",
        description="Folder or fsspec URI for snapshots, reports and the embedded stores. "
        "A relative path starts at the folder of feedloop.toml.",
    )
    seed: NonNegativeInt = Field(default=7, description="Seed of training. Same data and seed, same model on a CPU.")
    data: DataKnobs = Field(default=DataKnobs(), description="The interaction log.")
    history: HistoryKnobs = Field(default=HistoryKnobs(), description="Point-in-time history features.")
    split: SplitKnobs = Field(default=SplitKnobs(), description="Train, validation and holdout by time.")
    model: ModelKnobs = Field(default=DeepMLPKnobs(), description="The architecture to train.")
    training: TrainingKnobs = Field(default=TrainingKnobs(), description="How it is trained.")
    gate: GateKnobs = Field(default=GateKnobs(), description="When a challenger may replace the champion.")
    approval: ApprovalKnobs = Field(default=ApprovalKnobs(), description="Who agrees to it.")
    rollout: RolloutSettings = Field(default=RolloutSettings(), description="How it then reaches its users.")
    quality: QualityKnobs = Field(default=QualityKnobs(), description="When new data are an incident.")
    drift: DriftKnobs = Field(default=DriftKnobs(), description="When traffic has drifted.")
    performance: PerformanceKnobs = Field(default=PerformanceKnobs(), description="When the champion got worse.")
    triggers: TriggerKnobs = Field(default=TriggerKnobs(), description="When all that retrains.")
    schedules: ScheduleKnobs = Field(default=ScheduleKnobs(), description="When runs start by themselves.")
    registry: RegistryKnobs = Field(default=RegistryKnobs(), description="Where models live.")
    serving: ServingKnobs = Field(default=ServingKnobs(), description="The gateway.")
    retention: RetentionKnobs = Field(default=RetentionKnobs(), description="How many models are kept.")
    world: WorldKnobs = Field(default=WorldKnobs(), description="The sample feed of `feedloop run` without data.")

    toml_file: ClassVar[str | None] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, TOML; no .env files and no secret folders."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=cls.toml_file)

    @property
    def store(self) -> Store:
        """Where models are."""
        return Store(registry=self.registry, workspace=self.workspace)

    @property
    def engine(self) -> Engine:
        """Where rows are prepared."""
        return Engine(warehouse=self.data.warehouse, workspace=self.workspace)

    @property
    def maturity_hours(self) -> float:
        """Time after an impression at which its label is final, as the split takes it."""
        return max(self.split.label_maturity_hours, self.data.label_delay_hours)

    @property
    def outcomes_uri(self) -> str:
        """Where the outcomes of served impressions arrive."""
        return self.rollout.outcomes or self.data.uri

    @property
    def sample_folder(self) -> str:
        """Where the sample feed lives."""
        return f"{self.workspace}/sample"

    @property
    def online_folder(self) -> str:
        """Where the gateway logs what it answered, and where evidence about a rollout is read."""
        return self.serving.log or f"{self.workspace}/online"

    @property
    def gateway_folder(self) -> Path:
        """The gateway's own local folder."""
        if self.serving.folder is None and "://" in self.workspace:
            raise SettingsError(
                f"The workspace {self.workspace} is not a local folder, so the gateway needs one of its own: set "
                "serving.folder."
            )
        return Path(self.serving.folder or f"{self.workspace}/gateway")

    @property
    def metrics_folder(self) -> Path:
        """Where the processes of the gateway keep their counters."""
        return self.gateway_folder / "metrics"

    @property
    def is_sample(self) -> bool:
        """Whether the log is the sample feed."""
        return self.data.uri == f"{self.sample_folder}/interactions"

    @property
    def policy(self) -> dict[str, JsonValue]:
        """Everything that decides about a promotion, as plain data that evidence keeps."""
        return {"gate": self.gate.model_dump(mode="json"), "split": self.split.model_dump(mode="json")}

    @property
    def policy_digest(self) -> str:
        """Digest of the policy; an approval is bound to it."""
        return digest(self.policy)

    def feature_spec(self, log: Schema) -> FeatureSpec:
        """What a model trained under these settings reads from ``log``."""
        return FeatureSpec(log=log, history=self.history, label_delay_hours=self.data.label_delay_hours)
