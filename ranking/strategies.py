"""How a challenger may reach its users: four strategies, each a list of stages.

A new strategy is one class here and one line in ``STRATEGIES``.  Whatever the strategy, the last word is
``promote``'s: a rollout that completes asks for it.
"""

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from ranking.experiment_knobs import ExperimentKnobs
from ranking.shadow_checks import ShadowKnobs
from ranking.values import Knobs


def _leaves_a_control(share: float) -> float:
    if 0.5 < share < 1:
        raise ValueError(f"a share of {share:g} leaves no control of the same size: use at most 0.5, or 1")
    return share


Share = Annotated[float, Field(gt=0, le=1), AfterValidator(_leaves_a_control)]


class _Stage(Knobs):
    """What all stages have."""

    name: str = Field(min_length=1, description="As people call it.")
    min_hours: float = Field(default=0.0, ge=0, description="Least time in this stage.")

    @property
    def min_wait(self) -> timedelta:
        """Least time in this stage."""
        return timedelta(hours=self.min_hours)


class SwitchStage(_Stage):
    """Nothing to wait for: the challenger is promoted at once."""

    kind: Literal["switch"] = "switch"

    @property
    def words(self) -> str:
        """The stage, as it is told before it begins."""
        return "all users at once"


class ShadowStage(_Stage):
    """The challenger scores along; users see the champion."""

    kind: Literal["shadow"] = "shadow"
    request_share: float = Field(default=1.0, gt=0, le=1, description="Share of requests the challenger scores.")
    min_requests: PositiveInt = Field(default=5_000, description="Requests that must have been chosen for it.")
    checks: ShadowKnobs = Field(default=ShadowKnobs(), description="What it must show.")

    @property
    def words(self) -> str:
        """The stage, as it is told before it begins."""
        return (
            f"scoring {self.request_share:.0%} of the requests unseen for at least {self.min_hours:g} hours and "
            f"{self.min_requests:,} requests"
        )


class RampStage(_Stage):
    """The challenger serves a share of the users, beside a control of the same size."""

    kind: Literal["ramp"] = "ramp"
    share: Share = Field(description="Share of the users: at most 0.5, or 1 for all of them without a control.")
    min_sessions: NonNegativeInt = Field(default=0, description="Least sessions in the smaller of both arms.")
    detectable_ctr_drop: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Relative drop of the click-through rate that the stage must have been able to see before it is "
        "left. None demands nothing: a proven drop still rolls back, but too few users to see one do not hold.",
    )

    @property
    def words(self) -> str:
        """The stage, as it is told before it begins."""
        return f"{self.share:.0%} of the users for at least {self.min_hours:g} hours"


class InterleavingStage(_Stage):
    """Both models rank for the same user, and clicks vote: a cheap first stage that promotes nobody."""

    kind: Literal["interleaving"] = "interleaving"
    request_share: float = Field(default=0.1, gt=0, le=1, description="Share of requests whose lists are mixed.")
    min_requests: PositiveInt = Field(default=2_000, description="Mixed requests with final labels that decide.")

    @property
    def words(self) -> str:
        """The stage, as it is told before it begins."""
        return (
            f"{self.request_share:.0%} of the requests with mixed lists until {self.min_requests:,} have final labels "
            f"and {self.min_hours:g} hours have passed"
        )


class AbStage(_Stage):
    """Half and half until the registered horizon."""

    kind: Literal["ab_test"] = "ab_test"
    experiment: ExperimentKnobs = Field(default=ExperimentKnobs(), description="How it is read.")

    @property
    def words(self) -> str:
        """The stage, as it is told before it begins."""
        weeks, share = self.experiment.weeks, self.experiment.share
        return f"{share:.0%} of the users in each arm for {weeks} week{'s' if weeks > 1 else ''}"


Stage = Annotated[SwitchStage | ShadowStage | InterleavingStage | RampStage | AbStage, Field(discriminator="kind")]

FIRST = RampStage(name="1 %", share=0.01, min_hours=2, min_sessions=3_000, detectable_ctr_drop=0.30)
RAMP: tuple[RampStage, ...] = (
    FIRST,
    RampStage(name="10 %", share=0.10, min_hours=4, min_sessions=30_000, detectable_ctr_drop=0.10),
    RampStage(name="50 %", share=0.50, min_hours=24, min_sessions=30_000, detectable_ctr_drop=0.05),
    RampStage(name="100 %, bake", share=1.0, min_hours=24),
)
"""1 -> 10 -> 50 -> 100 %.  Every stage must be able to see the harm that the next one would do to more users."""


class Immediate(Knobs):
    """Promote at once, after the gate and the approval."""

    kind: Literal["immediate"] = "immediate"

    def stages(self) -> tuple[Stage, ...]:
        """One switch."""
        return (SwitchStage(name="100 %"),)


class Shadow(Knobs):
    """Score live requests without showing anything, then promote."""

    kind: Literal["shadow"] = "shadow"
    min_hours: PositiveFloat = Field(default=24.0, description="Least time in the shadow: a whole day's rhythm.")
    request_share: float = Field(default=1.0, gt=0, le=1, description="Share of requests the challenger scores.")
    min_requests: PositiveInt = Field(default=5_000, description="Requests that must have been chosen for it.")
    checks: ShadowKnobs = Field(default=ShadowKnobs(), description="What the challenger must show.")

    def stages(self) -> tuple[Stage, ...]:
        """One stage at 0 %."""
        return (
            ShadowStage(
                name="shadow",
                min_hours=self.min_hours,
                request_share=self.request_share,
                min_requests=self.min_requests,
                checks=self.checks,
            ),
        )


class Canary(Knobs):
    """Raise the challenger's share step by step; any proven harm takes it back."""

    kind: Literal["canary"] = "canary"
    ramp: tuple[RampStage, ...] = Field(default=RAMP, min_length=1, description="Stages with rising shares.")

    def stages(self) -> tuple[Stage, ...]:
        """The ramp."""
        return self.ramp


class AbTest(Knobs):
    """A short first stage that would show a broken challenger, then a true A/B test."""

    kind: Literal["ab_test"] = "ab_test"
    first: RampStage | None = Field(default=FIRST, description="Stage before the test; None starts it at once.")
    interleaving: InterleavingStage | None = Field(
        default=None, description="Stage after the first one that ends a test early which users would not like."
    )
    experiment: ExperimentKnobs = Field(default=ExperimentKnobs(), description="How the test is run and read.")

    def stages(self) -> tuple[Stage, ...]:
        """First stage, interleaving, test."""
        test = AbStage(name="A/B test", experiment=self.experiment)
        return tuple(stage for stage in (self.first, self.interleaving, test) if stage is not None)


STRATEGIES: tuple[type[Immediate | Shadow | Canary | AbTest], ...] = (Immediate, Shadow, Canary, AbTest)

Strategy = Annotated[Immediate | Shadow | Canary | AbTest, Field(discriminator="kind")]
