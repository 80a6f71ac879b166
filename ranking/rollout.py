"""A rollout's state: its plan, its stage, its history, and whom it routes where.

The state is one frozen value that lives in the ledger: whoever reads it knows who is served what, and a
crash between two ticks loses nothing.  ``ranking.steps`` decides the next step, ``ranking.rollout_changes`` makes it.
"""

from enum import StrEnum
from typing import Self

from pydantic import AwareDatetime, Field, JsonValue, NonNegativeInt, ValidationError, model_validator

from ranking.assignment import Namespace, RoutingTable, split
from ranking.errors import ComparisonError
from ranking.experiment import Readout
from ranking.findings import Finding
from ranking.health import HealthKnobs
from ranking.results import Evidence
from ranking.strategies import AbStage, InterleavingStage, RampStage, ShadowStage, Stage, Strategy
from ranking.values import Value


class RolloutKnobs(HealthKnobs):
    """The rules of a ramp that hold in every stage; fixed when the rollout starts."""

    ctr_alpha: float = Field(
        default=0.01, gt=0, le=0.1, description="Two-sided error per stage of the click-through rate's interval."
    )
    ctr_detection: float = Field(
        default=0.98, gt=0.5, lt=1, description="Chance with which a stage sees its detectable drop before it is left."
    )
    imbalance_alpha: float = Field(
        default=0.001, gt=0, lt=0.05, description="Chance per stage to call a fair split of users invalid."
    )


class ReleasePlan(Value):
    """How a challenger is to reach its users; part of what is approved."""

    strategy: Strategy
    knobs: RolloutKnobs = RolloutKnobs()

    @property
    def at_once(self) -> bool:
        """Whether the challenger becomes champion without being watched first."""
        return self.strategy.kind == "immediate"

    @property
    def kept(self) -> dict[str, JsonValue]:
        """The plan as evidence keeps it; nothing for a promotion at once."""
        return {} if self.at_once else self.model_dump(mode="json")

    @property
    def words(self) -> str:
        """The plan in one sentence."""
        return f"{_TOLD[self.strategy.kind]}: {', then '.join(stage.words for stage in self.strategy.stages())}."


_TOLD = {"immediate": "Immediate", "shadow": "Shadow", "canary": "Canary", "ab_test": "A/B test"}


def plan_of(evidence: Evidence) -> ReleasePlan | None:
    """The plan that was approved with the evidence; ``None`` in evidence that has none.

    Raises:
        ComparisonError: this version cannot read it.
    """
    if not evidence.plan:
        return None
    try:
        return ReleasePlan.model_validate(evidence.plan)
    except ValidationError as error:
        raise ComparisonError(
            f"The evidence {evidence.digest[:12]}… holds a plan that this version cannot read: {error}. Compare the "
            "challenger again."
        ) from error


class RolloutStatus(StrEnum):
    """Where a rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    INVALID = "invalid"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self not in {RolloutStatus.RUNNING, RolloutStatus.PAUSED}


class Action(StrEnum):
    """What a tick does with a rollout: at most one step."""

    ADVANCE = "ADVANCE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"
    COMPLETE = "COMPLETE"
    INVALID = "INVALID"


class Step(Value):
    """The next step of a rollout, with its reason."""

    action: Action
    reason: str
    missing: tuple[str, ...] = Field(default=(), description="What a HOLD waits for.")
    stage: NonNegativeInt = Field(description="The stage it was decided in.")
    at: AwareDatetime
    quarantine: bool = Field(default=False, description="Harm is proven: the challenger may not come back.")
    findings: tuple[Finding, ...] = ()
    readout: Readout | None = None
    control_bad_share: float | None = Field(default=None, description="What a stage without control is held against.")


class Transition(Value):
    """One line of a rollout's history."""

    at: AwareDatetime
    actor: str
    action: str
    stage: NonNegativeInt = Field(description="The stage after it.")
    reason: str


class Rollout(Value):
    """One challenger on its way to its users."""

    id: str = Field(min_length=1)
    champion: str = Field(description="Version that keeps everybody else, and everybody if this fails.")
    challenger: str
    strategy: str
    stages: tuple[Stage, ...] = Field(min_length=1, description="As planned at the start; settings do not change them.")
    knobs: RolloutKnobs
    salt: str = Field(min_length=1)
    namespace: Namespace | None = None
    status: RolloutStatus = RolloutStatus.RUNNING
    stage: NonNegativeInt = 0
    entered: AwareDatetime = Field(description="When this stage began; nothing earlier counts as its evidence.")
    looks: tuple[AwareDatetime, ...] = Field(default=(), description="Looks at the A/B test of this stage.")
    control_bad_share: float | None = None
    quarantined: bool = False
    history: tuple[Transition, ...] = ()

    @model_validator(mode="after")
    def _stands_on_a_stage(self) -> Self:
        if self.stage >= len(self.stages):
            raise ValueError(f"stage {self.stage} of {len(self.stages)} does not exist")
        shares = [stage.share for stage in self.stages if isinstance(stage, RampStage)]
        if shares != sorted(shares):
            raise ValueError(f"shares of {shares} would move users out of the challenger: a ramp only rises")
        return self

    @property
    def current(self) -> Stage:
        """The stage it is in."""
        return self.stages[self.stage]


def routing(rollout: Rollout) -> RoutingTable:
    """What gateways serve now.

    An ended rollout leaves all users to the champion, with one exception: when the bake at 100 % is
    completed the challenger stays until ``promote`` made it the champion, or users would swing back for it.
    """
    stage, status = rollout.current, rollout.status
    share, shadow, sampled = 0.0, None, 0.0
    mixed = stage.request_share if isinstance(stage, InterleavingStage) and not status.ended else 0.0
    if not status.ended or status is RolloutStatus.COMPLETED:
        if isinstance(stage, RampStage) and (not status.ended or stage.share == 1):
            share = stage.share
        elif isinstance(stage, AbStage) and not status.ended:
            share = stage.experiment.share
        elif isinstance(stage, ShadowStage) and not status.ended:
            shadow, sampled = rollout.challenger, stage.request_share
    return RoutingTable(
        rollout=rollout.id,
        champion=rollout.champion,
        salt=rollout.salt,
        namespace=rollout.namespace,
        arms=split(rollout.champion, rollout.challenger, share) if share else (),
        stage=rollout.stage,
        stage_name=stage.name,
        shadow=shadow,
        shadow_share=sampled,
        interleaved=rollout.challenger if mixed else None,
        interleaved_share=mixed,
    )
