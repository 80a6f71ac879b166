"""Ratios of per-user sums against tea-tasting, statsmodels and raw rows."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import tea_tasting as tt
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.errors import ComparisonError
from ranking.ratios import LEAST_USERS, RatioSums, effect, relative_variance


def users(seed: int, count: int, lift: float = 0.0) -> dict[str, np.ndarray]:
    """Heavy-tailed users with a pre-period, one row each."""
    rng = np.random.default_rng(seed)
    activity, taste = rng.lognormal(1, 1, count), rng.beta(2, 18, count)
    before = rng.poisson(activity * 2)
    shown = 1 + rng.poisson(activity)
    return {
        "clicks": rng.binomial(shown, taste * (1 + lift)),
        "shown": shown,
        "clicks_before": rng.binomial(before, taste),
        "shown_before": before,
    }


def sums(columns: dict[str, np.ndarray], *, before: bool = True) -> RatioSums:
    return RatioSums.of(*list(columns.values())[: 4 if before else 2])


CONTROL, TREATMENT = users(1, 5_000), users(2, 5_200, lift=0.05)


@pytest.mark.parametrize("before", [False, True], ids=["delta method", "CUPED"])
def test_the_effect_is_that_of_tea_tasting(before):
    frame = pd.concat([pd.DataFrame(arm).assign(variant=code) for code, arm in enumerate((CONTROL, TREATMENT))])
    names = list(CONTROL) if before else list(CONTROL)[:2]
    metric = tt.RatioOfMeans(*names, use_t=False, equal_var=False)
    theirs = tt.Experiment(ctr=metric).analyze(frame)["ctr"]
    ours = effect(sums(CONTROL, before=before), sums(TREATMENT, before=before))
    assert ours.control == pytest.approx(theirs.control, rel=1e-12)
    assert ours.treatment == pytest.approx(theirs.treatment, rel=1e-12)
    assert ours.difference.value == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.z == pytest.approx(theirs.statistic, rel=1e-9)
    assert ours.relative.value == pytest.approx(theirs.rel_effect_size, rel=1e-9)
    # tea-tasting's relative interval is that of the logarithm; at an error of 3 % the third digit differs
    assert ours.relative.low == pytest.approx(theirs.rel_effect_size_ci_lower, abs=0.003)
    assert ours.relative.high == pytest.approx(theirs.rel_effect_size_ci_upper, abs=0.003)


def test_the_delta_method_is_a_regression_on_impressions_with_errors_clustered_by_user():
    clicks = np.concatenate([CONTROL["clicks"], TREATMENT["clicks"]]).astype(float)
    shown = np.concatenate([CONTROL["shown"], TREATMENT["shown"]]).astype(float)
    treated = np.repeat([0.0, 1.0], [5_000, 5_200])
    fitted = sm.WLS(clicks / shown, sm.add_constant(treated), weights=shown).fit(cov_type="HC0")
    ours = effect(sums(CONTROL, before=False), sums(TREATMENT, before=False))
    assert ours.difference.value == pytest.approx(fitted.params[1], rel=1e-9)
    assert ours.difference.se == pytest.approx(fitted.bse[1], rel=1e-3)


def test_cuped_takes_variance_out_and_moves_the_effect_little():
    plain, adjusted = (effect(sums(CONTROL, before=b), sums(TREATMENT, before=b)) for b in (False, True))
    assert plain.variance_reduction is None
    assert adjusted.variance_reduction == pytest.approx(1 - (adjusted.difference.se / plain.difference.se) ** 2)
    assert 0.15 < adjusted.variance_reduction < 0.25
    assert abs(adjusted.difference.value - plain.difference.value) < 2 * plain.difference.se


def test_a_pre_period_that_says_nothing_takes_nothing_out():
    shuffled = {**CONTROL, "clicks_before": np.zeros(5_000), "shown_before": np.zeros(5_000)}
    assert effect(sums(shuffled), sums(CONTROL, before=False)).variance_reduction is None


counts = st.lists(st.tuples(*[st.integers(0, 50)] * 4), min_size=1, max_size=30)


@settings(deadline=None)
@given(counts, counts)
def test_shards_of_users_add_up(one, other):
    left, right, whole = (RatioSums.of(*np.array(rows, dtype=float).T) for rows in (one, other, one + other))
    assert left + right == whole


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=2, max_size=30))
def test_the_covariance_from_sums_is_the_covariance_of_the_rows(rows):
    array = np.array(rows, dtype=float)
    assert RatioSums.of(*array.T).covariance == pytest.approx(np.cov(array.T), abs=1e-9)


def test_sums_survive_json():
    assert RatioSums.model_validate_json(sums(CONTROL).model_dump_json()) == sums(CONTROL)


def test_what_cannot_be_measured_is_none_and_says_why():
    few = {name: column[: LEAST_USERS - 1] for name, column in CONTROL.items()}
    assert "99 and 5,200 users are fewer than the 100 per arm" in effect(sums(few), sums(TREATMENT)).note
    nothing = RatioSums.of(np.zeros(200), np.zeros(200))
    assert effect(nothing, nothing).note == "an arm has nothing in its denominator"
    same = RatioSums.of(np.zeros(200), np.ones(200))
    unmoved = effect(same, same)
    assert (unmoved.z, unmoved.difference) == (None, None)
    assert unmoved.note == "all users have the same ratio, so there is no error"
    assert effect(same, sums(TREATMENT, before=False)).relative is None


def test_wrong_counts_are_refused():
    with pytest.raises(ComparisonError, match="one finite number per user"):
        RatioSums.of([1, 2], [1])
    with pytest.raises(ComparisonError, match="one finite number per user"):
        RatioSums.of([1, np.nan], [1, 1])
    with pytest.raises(ComparisonError, match="one of the two is missing"):
        RatioSums.of([1], [1], [1])


def test_the_relative_variance_plans_what_the_effect_measures():
    for before in (False, True):
        whole = sums(CONTROL, before=before)
        measured = effect(whole, whole).difference.se / whole.ratio
        assert measured == pytest.approx(np.sqrt(2 * relative_variance(whole) / whole.users), rel=1e-9)
    assert relative_variance(RatioSums.of(np.zeros(200), np.ones(200))) is None
