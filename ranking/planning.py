"""How many users and weeks an A/B test needs, before it starts."""

from collections.abc import Sequence
from math import ceil

from pydantic import Field, NonNegativeInt, PositiveInt

from ranking.errors import ComparisonError
from ranking.experiment_knobs import ExperimentKnobs
from ranking.ratios import RatioSums, relative_variance
from ranking.sequential import crossings
from ranking.values import Value


class PlannedWeek(Value):
    """What a test of so many weeks could see."""

    weeks: PositiveInt
    users_per_arm: NonNegativeInt
    detectable_relative_effect: float | None = Field(description="None without users.")


class Plan(Value):
    """Size and length of an A/B test, with what it can and cannot see."""

    relative_variance: float = Field(description="Of one user's click-through rate, after CUPED if it is planned.")
    needed_users_per_arm: PositiveInt = Field(description="At least the floor.")
    weeks: PositiveInt | None = Field(description="Shortest horizon with that many users; None if none of those given.")
    options: tuple[PlannedWeek, ...]
    false_verdict_rate: float = Field(
        description="Chance of a verdict on equal models, over all looks of that horizon."
    )
    reason: str


def plan(baseline: RatioSums, users_by_week: Sequence[int], knobs: ExperimentKnobs) -> Plan:
    """Plan a test: n per arm = 2 V (z_alpha + z_power)^2 / effect^2, with V the relative variance of one user.

    Args:
        baseline: clicks over impressions of past users, over about the length of the test, with their own
            pre-period if CUPED will be used.
        users_by_week: distinct users seen within the first 1, 2, 3, … weeks of such a stretch, all of them.
        knobs: share, power, effect and bounds of the test.

    Raises:
        ComparisonError: a baseline without users or clicks, or no week at all.
    """
    from scipy.special import ndtri

    variance = relative_variance(baseline)
    if not variance:
        raise ComparisonError(
            f"A baseline of {baseline.users:,} users with {baseline.sums[0]:,.0f} clicks has no variance to plan with: "
            "measure clicks and impressions of past users first."
        )
    if not users_by_week or min(users_by_week) < 0:
        raise ComparisonError("Planning needs the number of distinct users after 1, 2, … weeks, from the log.")
    reach = knobs.final_bound + float(ndtri(knobs.power))
    needed = max(ceil(2 * variance * reach**2 / knobs.min_relative_effect**2), knobs.min_users_per_arm)
    options = tuple(
        _week(number, round(users * knobs.share), variance, reach) for number, users in enumerate(users_by_week, 1)
    )
    weeks = next((option.weeks for option in options if option.users_per_arm >= needed), None)
    return Plan(
        relative_variance=variance,
        needed_users_per_arm=needed,
        weeks=weeks,
        options=options,
        false_verdict_rate=_false_verdicts(knobs),
        reason=_reason(needed, options, weeks, knobs),
    )


def _week(number: int, users: int, variance: float, reach: float) -> PlannedWeek:
    effect = reach * (2 * variance / users) ** 0.5 if users else None
    return PlannedWeek(weeks=number, users_per_arm=users, detectable_relative_effect=effect)


def _false_verdicts(knobs: ExperimentKnobs) -> float:
    looks = 7 * knobs.weeks
    bounds = [knobs.interim_critical] * (looks - 1) + [knobs.final_bound]
    return crossings([look / looks for look in range(1, looks + 1)], bounds).total


def _reason(needed: int, options: tuple[PlannedWeek, ...], weeks: int | None, knobs: ExperimentKnobs) -> str:
    asked = f"To see a relative change of {knobs.min_relative_effect:.1%} with {knobs.power:.0%} chance"
    needs = f"{asked}, {needed:,} users per arm are needed (the floor is {knobs.min_users_per_arm:,})"
    if weeks is not None:
        chosen = options[weeks - 1]
        return (
            f"{needs}: {weeks} week{'s' if weeks > 1 else ''} bring {chosen.users_per_arm:,}, which show "
            f"{chosen.detectable_relative_effect or 0:.1%}."
        )
    last = options[-1]
    shows = "nothing" if last.detectable_relative_effect is None else f"{last.detectable_relative_effect:.1%} or more"
    return (
        f"{needs}, but {last.weeks} weeks bring only {last.users_per_arm:,}, which show {shows}. "
        "Plan for a larger change, give the arms a larger share, or use interleaving first."
    )
