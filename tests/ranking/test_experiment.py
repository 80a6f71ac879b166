"""The A/B readout and its plan: each verdict with its sentence."""

from datetime import timedelta

import numpy as np
import pytest
import tea_tasting as tt
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import NormalIndPower

from ranking.errors import ComparisonError
from ranking.experiment import ExperimentEvidence, Readout, TestVerdict, read, sample_ratio_p
from ranking.experiment_knobs import GUARDRAIL_METRICS, ExperimentKnobs
from ranking.findings import Status
from ranking.planning import plan
from ranking.ratios import RatioSums
from tests.ranking.simulated_traffic import MONDAY, TestDays

KNOBS = ExperimentKnobs(weeks=2, min_users_per_arm=3_000)
DAY = timedelta(days=1)


def days(count: int, *, lift: float = 0.0, users: int = 4_000, seed: int = 1) -> ExperimentEvidence:
    test = TestDays(np.random.default_rng(seed), users, lift)
    for number in range(count):
        test.day(number)
    return test.evidence(MONDAY + count * DAY)


def look(
    evidence: ExperimentEvidence, *, knobs: ExperimentKnobs = KNOBS, looks: tuple = (), wait: timedelta = DAY
) -> Readout:
    return read(evidence, knobs, start=MONDAY, now=evidence.until + wait, looks=looks)


AT_HORIZON = days(14)


def test_a_better_b_is_promoted_with_its_interval():
    readout = look(days(14, lift=0.10))
    assert readout.verdict is TestVerdict.PROMOTE_B
    assert readout.final
    assert "B is proven better, and every guardrail is proven harmless" in readout.reason
    assert readout.clicks.relative.low <= 0.10 <= readout.clicks.relative.high
    assert readout.clicks.relative.low > 0
    assert readout.clicks.variance_reduction > 0.2


def test_a_worse_b_is_rejected_before_the_horizon_and_below_the_floor():
    readout = look(days(4, lift=-0.25), knobs=KNOBS.model_copy(update={"min_users_per_arm": 100_000}))
    assert readout.verdict is TestVerdict.REJECT_B
    assert not readout.final
    assert "against ±3.29, CUPED): B is proven worse." in readout.reason


def test_equal_models_keep_a_at_the_horizon_with_the_interval():
    readout = look(AT_HORIZON)
    assert readout.verdict is TestVerdict.KEEP_A
    assert "the horizon of 2 weeks is reached and a better B is not proven, so A stays." in readout.reason
    assert readout.clicks.relative.low < 0 < readout.clicks.relative.high
    assert readout.critical == 2.0


def test_before_the_horizon_the_test_goes_on_and_says_what_is_missing():
    readout = look(days(3))
    assert readout.verdict is TestVerdict.CONTINUE
    assert "day 3.0 of 14, nothing is decided" in readout.reason
    assert "11.0 more days until the registered horizon." in readout.missing


def test_an_early_win_is_not_promoted_before_a_whole_week():
    early, later = (look(days(count, lift=0.30)) for count in (5, 7))
    assert early.clicks.z > 3.29
    assert (early.verdict, later.verdict) == (TestVerdict.CONTINUE, TestVerdict.PROMOTE_B)


def test_a_win_with_fewer_users_than_the_floor_goes_on_and_ends_with_a():
    knobs = KNOBS.model_copy(update={"min_users_per_arm": 10_000})
    early, last = (look(days(count, lift=0.20), knobs=knobs) for count in (8, 14))
    assert early.verdict is TestVerdict.CONTINUE
    assert early.missing[0].endswith(
        f"more users in the smaller arm ({min(early.control_users, early.treatment_users):,} so far)."
    )
    assert last.verdict is TestVerdict.KEEP_A
    assert "10,000 users per arm were registered as the least" in last.reason


def test_a_planted_sample_ratio_mismatch_is_invalid_whatever_the_numbers_say():
    evidence = days(14, lift=0.10)
    lost = evidence.model_copy(update={"control_users": evidence.control_users + 400})
    readout = look(lost)
    assert readout.verdict is TestVerdict.INVALID
    assert readout.sample_ratio_p < 0.001
    assert "should be equally many" in readout.reason
    assert "start again with a new salt" in readout.reason


def test_the_published_sample_ratio_comes_out():
    assert sample_ratio_p(600, 400) == pytest.approx(2.54e-10, rel=0.002)
    assert sample_ratio_p(0, 0) is None


@given(st.integers(0, 5_000), st.integers(1, 5_000), st.floats(0.05, 0.95))
def test_the_sample_ratio_is_scipys_chi_square(control, treatment, expected):
    total = control + treatment
    theirs = stats.chisquare([control, treatment], [total * (1 - expected), total * expected]).pvalue
    assert sample_ratio_p(control, treatment, expected) == pytest.approx(theirs, rel=1e-6, abs=1e-12)


def test_users_in_both_arms_make_it_invalid_and_uncounted_ones_are_asked_for():
    evidence = days(14, lift=0.10)
    assert "200 of" in look(evidence.model_copy(update={"crossovers": 200})).reason
    assert look(evidence.model_copy(update={"crossovers": 200})).verdict is TestVerdict.INVALID
    early = look(days(3).model_copy(update={"crossovers": None}))
    assert "A count of the users seen in both arms." in early.missing


def test_a_second_look_on_the_same_day_decides_nothing():
    evidence = days(8, lift=0.30)
    now = evidence.until + timedelta(hours=2)
    again = read(evidence, KNOBS, start=MONDAY, now=now, looks=(now - timedelta(hours=1),))
    assert again.verdict is TestVerdict.CONTINUE
    assert not again.looked
    assert "Today was looked at already (2026-01-13)" in again.reason
    assert look(evidence, looks=(now - DAY,)).verdict is TestVerdict.PROMOTE_B


def test_the_horizon_may_be_read_again():
    once = look(AT_HORIZON)
    again = look(AT_HORIZON, looks=(once.at,))
    assert (again.verdict, again.looked) == (TestVerdict.KEEP_A, True)


def test_a_guardrail_that_nobody_measured_stops_a_promotion_not_the_test():
    evidence = days(14, lift=0.10).model_copy(update={"guardrails": {}})
    readout = look(evidence)
    assert readout.verdict is TestVerdict.KEEP_A
    assert "not every guardrail is proven harmless" in readout.reason
    assert {finding.status for finding in readout.findings} == {Status.UNPROVEN}
    assert readout.findings[0].sentence == "Clicks per user could not be compared: nobody measured it."


def test_a_harmed_guardrail_rejects_b_although_clicks_per_impression_rose():
    test = TestDays(np.random.default_rng(3), 8_000, 0.15)
    for number in range(14):
        test.day(number)
    test.shown[1] = np.ceil(test.shown[1] * 0.6)
    test.clicked[1] = np.minimum(test.clicked[1] * 0.7, test.shown[1])
    readout = look(test.evidence(MONDAY + 14 * DAY))
    assert readout.clicks.z > 2
    assert readout.verdict is TestVerdict.REJECT_B
    assert "but harm is proven. Clicks per user changed by" in readout.reason
    assert "proven worse by more than the margin of 5%" in readout.reason


@pytest.mark.parametrize(("sessions", "verdict"), [(2, TestVerdict.PROMOTE_B), (0, TestVerdict.KEEP_A)])
def test_where_no_session_was_bad_enough_of_them_prove_it_harmless(sessions, verdict):
    evidence = days(14, lift=0.10)
    users = evidence.clicks.control.users, evidence.clicks.treatment.users
    clean = [RatioSums.of(np.zeros(count), np.full(count, sessions)) for count in users]
    arms = evidence.clicks.model_copy(update={"control": clean[0], "treatment": clean[1]})
    readout = look(evidence.model_copy(update={"guardrails": {**evidence.guardrails, "bad_sessions": arms}}))
    assert readout.verdict is verdict
    said = {
        TestVerdict.PROMOTE_B: f"0 of {2 * users[1]:,} sessions in B were bad: proven fewer than 0.5%.",
        TestVerdict.KEEP_A: "The share of bad sessions could not be compared: an arm has nothing in its denominator.",
    }
    assert readout.findings[-1].sentence == said[verdict]


def test_every_guardrail_has_its_margin_among_the_knobs():
    assert [metric.name for metric in GUARDRAIL_METRICS] == ["clicks_per_user", "impressions_per_user", "bad_sessions"]
    assert all(f"{metric.name}_margin_relative" in ExperimentKnobs.model_fields for metric in GUARDRAIL_METRICS)


def test_a_test_without_users_is_not_decided():
    nothing = RatioSums.of([], [])
    evidence = days(3).model_copy(
        update={
            "clicks": days(3).clicks.model_copy(update={"control": nothing, "treatment": nothing}),
            "guardrails": {},
            "control_users": 0,
            "treatment_users": 0,
        }
    )
    readout = look(evidence)
    assert readout.verdict is TestVerdict.CONTINUE
    assert readout.sample_ratio_p is None
    assert "could not be compared" in readout.reason


def test_exposures_from_after_the_horizon_are_refused():
    late = AT_HORIZON.model_copy(update={"until": MONDAY + 15 * DAY})
    with pytest.raises(ComparisonError, match="the horizon is registered"):
        look(late)
    with pytest.raises(ComparisonError, match="leave later exposures out"):
        look(AT_HORIZON, wait=-DAY)


def test_users_that_were_counted_twice_are_refused():
    with pytest.raises(ComparisonError, match=r"'clicks' has .* users in the control, where 5 were seen"):
        look(AT_HORIZON.model_copy(update={"control_users": 5}))


def test_the_last_look_is_the_stricter_the_more_looks_come_before():
    assert ExperimentKnobs(weeks=2).final_bound == 2.0
    assert 2.0 < ExperimentKnobs(weeks=4).final_bound < ExperimentKnobs(weeks=8).final_bound < 2.05


def test_a_readout_survives_json():
    readout = look(AT_HORIZON)
    assert Readout.model_validate_json(readout.model_dump_json()) == readout


def baseline(seed: int = 5, users: int = 20_000) -> tuple[RatioSums, TestDays]:
    test = TestDays(np.random.default_rng(seed), users)
    for number in range(14):
        test.day(number)
    came = test.shown[0] > 0
    return RatioSums.of(test.clicked[0][came], test.shown[0][came]), test


def test_the_plan_takes_the_first_week_with_enough_users():
    sums, _ = baseline()
    planned = plan(sums, [30_000, 60_000, 90_000, 120_000], ExperimentKnobs(weeks=4, min_relative_effect=0.03))
    assert planned.weeks == 2
    assert planned.options[planned.weeks - 1].users_per_arm >= planned.needed_users_per_arm
    assert planned.options[planned.weeks - 2].users_per_arm < planned.needed_users_per_arm
    assert planned.false_verdict_rate == pytest.approx(0.05, abs=1e-4)
    assert "To see a relative change of 3.0% with 80% chance" in planned.reason


def test_ten_thousand_users_are_the_least_that_is_planned():
    planned = plan(baseline()[0], [20_000], ExperimentKnobs(min_relative_effect=0.5))
    assert planned.needed_users_per_arm == 10_000
    assert planned.weeks == 1


def test_a_plan_that_never_fits_says_what_could_be_seen():
    planned = plan(baseline()[0], [500, 700], ExperimentKnobs(min_relative_effect=0.01))
    assert planned.weeks is None
    assert "but 2 weeks bring only 350" in planned.reason
    assert "interleaving" in planned.reason


def test_the_size_is_that_of_statsmodels_and_of_tea_tasting():
    sums, test = baseline()
    knobs = ExperimentKnobs(weeks=2, min_relative_effect=0.02)
    ours = plan(sums, [10_000], knobs).needed_users_per_arm
    alpha = 2 * stats.norm.sf(knobs.final_bound)
    effect = 0.02 / np.sqrt(plan(sums, [10_000], knobs).relative_variance)
    assert ours == pytest.approx(NormalIndPower().solve_power(effect, power=0.8, alpha=alpha), rel=1e-3)
    came = test.shown[0] > 0
    metric = tt.RatioOfMeans("c", "i", rel_effect_size=0.02, alpha=alpha, power=0.8, use_t=False, equal_var=False)
    theirs = metric.solve_power(_frame(test, came), "n_obs")
    assert ours == pytest.approx(theirs[0].n_obs / 2, rel=0.01)


def _frame(test: TestDays, came: np.ndarray):
    import pandas as pd

    return pd.DataFrame({"c": test.clicked[0][came], "i": test.shown[0][came]})


def test_a_baseline_without_clicks_plans_nothing():
    with pytest.raises(ComparisonError, match="no variance to plan with"):
        plan(RatioSums.of(np.zeros(10), np.ones(10)), [100], ExperimentKnobs())
    with pytest.raises(ComparisonError, match="distinct users after 1, 2"):
        plan(baseline()[0], [], ExperimentKnobs())
