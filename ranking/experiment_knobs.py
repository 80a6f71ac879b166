"""How an A/B test is run and read, and which metrics it must not harm."""

from datetime import timedelta
from typing import NamedTuple

from pydantic import Field, PositiveInt

from ranking.sequential import final_bound
from ranking.values import Knobs

LEAST_PRE_PERIOD = timedelta(weeks=2)
"""A shorter past of the users explains less of how they differ."""


class ExperimentKnobs(Knobs):
    """How an A/B test is run and read.  Fixed when the test starts."""

    weeks: int = Field(default=2, ge=1, le=26, description="Registered horizon: whole weeks, so that weekdays balance.")
    share: float = Field(default=0.5, gt=0, le=0.5, description="Share of the users in each of the two arms.")
    min_users_per_arm: PositiveInt = Field(default=10_000, description="Fewer users decide nothing in favour of B.")
    min_relative_effect: float = Field(
        default=0.02, gt=0, lt=1, description="Relative change of the click-through rate that the test is planned for."
    )
    power: float = Field(default=0.8, gt=0.5, lt=1, description="Chance to see that change at the horizon.")
    false_verdict_rate: float = Field(
        default=0.05,
        gt=0,
        le=0.2,
        description="Two-sided chance of a verdict on equal models, over all looks together.",
    )
    interim_critical: float = Field(default=3.29, ge=2.5, le=6, description="|z| that decides before the horizon.")
    final_critical: float = Field(
        default=2.0, ge=1.64, le=6, description="Least |z| that decides at the horizon; many looks raise it."
    )
    min_days_before_promotion: float = Field(
        default=7.0, ge=0, description="Earlier looks can only reject: a week's rhythm and novelty must pass first."
    )
    min_sample_ratio_p: float = Field(
        default=0.001, gt=0, lt=0.05, description="A split of users less likely than this makes the test invalid."
    )
    max_crossover_share: float = Field(
        default=0.01, ge=0, lt=1, description="More users than this share seen in both arms make the test invalid."
    )
    guardrail_confidence_level: float = Field(
        default=0.95, gt=0.5, lt=1, description="Of the one-sided bound that proves a guardrail harmless."
    )
    clicks_per_user_margin_relative: float = Field(
        default=0.05, gt=0, lt=1, description="Clicks per user may fall by less than this share."
    )
    impressions_per_user_margin_relative: float = Field(
        default=0.05, gt=0, lt=1, description="Impressions per user may fall by less than this share."
    )
    bad_sessions_margin_relative: float = Field(
        default=0.25,
        gt=0,
        lt=5,
        description="The share of bad sessions may rise by less than this share of itself, ...",
    )
    tolerable_bad_share: float = Field(
        default=0.005, gt=0, lt=0.5, description="... or B's share of bad sessions is proven below this."
    )

    @property
    def horizon(self) -> timedelta:
        """Length of the test."""
        return timedelta(weeks=self.weeks)

    @property
    def pre_period(self) -> timedelta:
        """How far back the users' past is read for CUPED."""
        return max(self.horizon, LEAST_PRE_PERIOD)

    @property
    def final_bound(self) -> float:
        """|z| that decides at the horizon, with a look on every day before it."""
        return max(self.final_critical, final_bound(7 * self.weeks, self.interim_critical, self.false_verdict_rate))


class GuardrailMetric(NamedTuple):
    """A ratio per user that B must not harm; its margin is the knob ``<name>_margin_relative``."""

    name: str
    words: str
    higher_is_better: bool


GUARDRAIL_METRICS: tuple[GuardrailMetric, ...] = (
    GuardrailMetric("clicks_per_user", "Clicks per user", higher_is_better=True),
    GuardrailMetric("impressions_per_user", "Impressions per user", higher_is_better=True),
    GuardrailMetric("bad_sessions", "The share of bad sessions", higher_is_better=False),
)
"""Without the first two, B could raise its click-through rate by showing less."""
