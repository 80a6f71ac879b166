"""The promises of canary and A/B test, by simulation on clustered, heavy-tailed traffic.

``python -m pytest -m slow tests/ranking/test_online_simulation.py`` runs them in full; every number is
reproducible by its seed.
"""

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

from ranking.experiment import TestVerdict, read
from ranking.experiment_knobs import ExperimentKnobs
from ranking.ratios import RatioSums, effect
from ranking.rollout import RolloutStatus
from tests.ranking.simulated_traffic import MONDAY, Population, Site, TestDays, ramp

DAY = timedelta(days=1)
WEEKS = 4


def ramps(repetitions: int, *, stop: int | None = None, **site: float) -> tuple[Counter[str], list[int]]:
    """How that many canaries ended, and how often each that completed was looked at."""
    ends: Counter[str] = Counter()
    looks = []
    for seed in range(repetitions):
        rollout, looked = ramp(Site(np.random.default_rng([1, seed]), **site), stop=stop)
        ends[rollout.status] += 1
        if rollout.status is RolloutStatus.COMPLETED:
            looks.append(looked)
    return ends, looks


def equal_canaries_hardly_ever_fall(repetitions: int, **site: float) -> None:
    ends, looks = ramps(repetitions, **site)
    assert min(looks) >= 100
    assert ends[RolloutStatus.COMPLETED] + ends[RolloutStatus.ROLLED_BACK] + ends[RolloutStatus.INVALID] == repetitions
    assert (ends[RolloutStatus.ROLLED_BACK] + ends[RolloutStatus.INVALID]) / repetitions <= 0.02, ends


def harm_is_caught(repetitions: int, *, stop: int, **site: float) -> None:
    ends, _ = ramps(repetitions, stop=stop, **site)
    assert ends[RolloutStatus.ROLLED_BACK] / repetitions >= 0.95, ends


def test_a_few_equal_canaries_reach_everybody_through_a_hundred_looks():
    equal_canaries_hardly_ever_fall(4, rhythm=0.6)


def test_a_tenth_fewer_clicks_are_caught_before_the_ten_percent_stage_is_left():
    harm_is_caught(40, stop=2, click_lift=-0.10)


@pytest.mark.parametrize("bad_rate", [0.002, 0.01])
def test_five_times_the_errors_are_caught_at_one_percent(bad_rate):
    harm_is_caught(40, stop=1, bad_ratio=5.0, bad_rate=bad_rate)


@pytest.mark.slow
@pytest.mark.parametrize("rhythm", [0.0, 0.6], ids=["steady", "days and weekends"])
def test_equal_canaries_hardly_ever_fall_through_a_hundred_looks(rhythm):
    equal_canaries_hardly_ever_fall(200, rhythm=rhythm)


@pytest.mark.slow
@pytest.mark.parametrize("rhythm", [0.0, 0.6], ids=["steady", "days and weekends"])
def test_a_tenth_fewer_clicks_are_caught_in_95_of_100(rhythm):
    harm_is_caught(1_000, stop=2, click_lift=-0.10, rhythm=rhythm)


@pytest.mark.slow
@pytest.mark.parametrize("bad_rate", [0.001, 0.002, 0.005, 0.01, 0.02])
def test_five_times_the_errors_are_caught_in_95_of_100(bad_rate):
    harm_is_caught(1_000, stop=1, bad_ratio=5.0, bad_rate=bad_rate)


def week(seed: int) -> tuple[list[tuple[RatioSums, RatioSums, RatioSums]], RatioSums, RatioSums]:
    """One identical model at 1 % on workdays and at 50 % on a weekend with twice the clicks.

    Returns canary, concurrent control and everybody else by stage; and the canary and everybody else pooled.
    """
    rng = np.random.default_rng([4, seed])
    stages, pooled = [], [[], []]
    for clicks, sessions, others in ((0.8, 2_000, 98_000), (1.6, 40_000, 40_000)):
        canary, control = Population(rng, 20_000), Population(rng, 20_000)
        rest = Population(rng, 40_000)
        for arm, count in ((canary, sessions), (control, sessions), (rest, others)):
            arm.visit(count, clicks)
        stages.append((canary.sums, control.sums, rest.sums))
        pooled[0].append(canary.sums)
        pooled[1].append(rest.sums)
    return stages, pooled[0][0] + pooled[0][1], pooled[1][0] + pooled[1][1]


def test_identical_models_have_no_lift_within_a_stage_where_pooling_shows_one():
    crossed = 0
    for seed in range(15):
        stages, canary, everybody = week(seed)
        crossed += sum(abs(effect(control, treated).z) > 3 for treated, control, _ in stages)
        assert effect(everybody, canary).relative.value > 0.2
    assert crossed == 0


def look_daily(test: TestDays, knobs: ExperimentKnobs) -> tuple[TestVerdict, bool]:
    """The verdict that ends a test with a look every day, and whether |z| > 1.96 would have ended it on any."""
    looks, naive, verdict = (), False, TestVerdict.CONTINUE
    for number in range(7 * knobs.weeks):
        test.day(number)
        now = MONDAY + (number + 1) * DAY
        readout = read(test.evidence(now), knobs, start=MONDAY, now=now, looks=looks)
        looks = (*looks, now)
        naive |= readout.clicks.z is not None and abs(readout.clicks.z) > 1.96
        if verdict is TestVerdict.CONTINUE:
            verdict = readout.verdict
    return verdict, naive


def verdicts(repetitions: int, users: int, lift: float = 0.0) -> tuple[Counter[str], float]:
    knobs = ExperimentKnobs(weeks=WEEKS, min_users_per_arm=users * 9 // 10)
    found = [look_daily(TestDays(np.random.default_rng([2, seed]), users, lift), knobs) for seed in range(repetitions)]
    return Counter(verdict for verdict, _ in found), float(np.mean([naive for _, naive in found]))


def false_verdicts(counted: Counter[str]) -> float:
    return (counted[TestVerdict.PROMOTE_B] + counted[TestVerdict.REJECT_B]) / counted.total()


def test_daily_looks_at_equal_models_decide_seldom_where_naive_ones_decide_often():
    counted, naive = verdicts(40, users=1_000)
    assert false_verdicts(counted) <= 0.05
    assert naive > 0.15


@pytest.mark.slow
def test_28_daily_looks_at_equal_models_on_clustered_users_err_in_at_most_5_of_100():
    counted, naive = verdicts(1_000, users=3_000)
    assert false_verdicts(counted) <= 0.05, counted
    assert counted[TestVerdict.INVALID] <= 0.01 * counted.total(), counted
    assert naive > 0.2


@pytest.mark.slow
def test_a_test_sees_what_it_was_planned_for():
    counted, _ = verdicts(100, users=10_000, lift=0.03)
    assert counted[TestVerdict.PROMOTE_B] >= 85, counted
    counted, _ = verdicts(100, users=10_000, lift=-0.03)
    assert counted[TestVerdict.REJECT_B] >= 85, counted


def covered(repetitions: int, users: int, lift: float, *, cuped: bool) -> float:
    """Share of the final intervals that hold the true relative change."""
    knobs = ExperimentKnobs(weeks=1, final_critical=1.96, false_verdict_rate=0.05)
    held = 0
    for seed in range(repetitions):
        test = TestDays(np.random.default_rng([3, seed]), users, lift)
        for number in range(7):
            test.day(number)
        until = MONDAY + 7 * DAY
        clicks = test.evidence(until, cuped=cuped).clicks
        change = effect(clicks.control, clicks.treatment, critical=1.96).relative
        held += change.low <= lift <= change.high
    assert knobs.final_bound >= 1.96
    return held / repetitions


@pytest.mark.slow
@pytest.mark.parametrize("cuped", [False, True], ids=["delta method", "CUPED"])
@pytest.mark.parametrize("lift", [0.0, 0.05])
def test_the_interval_covers_the_true_change_in_95_of_100(lift, cuped):
    assert 0.935 <= covered(2_000, 3_000, lift, cuped=cuped) <= 0.965


def test_a_planted_loss_of_users_is_invalid_every_time():
    for seed in range(20):
        test = TestDays(np.random.default_rng([5, seed]), 4_000, 0.2)
        for number in range(7):
            test.day(number)
        test.shown[1, : 4_000 // 10], test.clicked[1, : 4_000 // 10] = 0, 0
        readout = read(test.evidence(MONDAY + 7 * DAY), ExperimentKnobs(weeks=1), start=MONDAY, now=MONDAY + 7 * DAY)
        assert readout.verdict is TestVerdict.INVALID
