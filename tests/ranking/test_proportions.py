"""Proportions against published cases and statsmodels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import xlogy
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

from ranking.errors import ComparisonError
from ranking.proportions import (
    compare_proportions,
    proportion_power,
    proportion_users,
    same_proportions,
)


def test_the_published_landing_page_comes_out():
    found = compare_proportions(17_264, 145_310, 17_489, 145_274)
    assert found.z == pytest.approx(1.3109241984234394, rel=1e-12)
    assert found.p_value / 2 == pytest.approx(0.09494168724097551, rel=1e-9)


def test_the_published_case_of_statsmodels_comes_out():
    assert compare_proportions(12, 99, 5, 83).p_value == pytest.approx(0.159, abs=0.0005)


def test_the_published_smokers_of_r_come_out():
    found = same_proportions([83, 90, 129, 70], [86, 93, 136, 82])
    assert (round(found.chi_square, 1), found.degrees_of_freedom, round(found.p_value, 6)) == (12.6, 3, 0.005585)


def test_the_published_miettinen_nurminen_interval_comes_out():
    difference = compare_proportions(1, 34, 7, 34).difference
    assert (difference.low, difference.high) == pytest.approx((0.0270416, 0.3452912), abs=1e-7)


def test_the_published_wald_and_agresti_caffo_intervals_lie_around_ours():
    # published for the same table: (0.02916942, 0.32377176) and (0.01161167, 0.32172166)
    difference = compare_proportions(1, 34, 7, 34).difference
    wald = confint_proportions_2indep(7, 34, 1, 34, method="wald")
    caffo = confint_proportions_2indep(7, 34, 1, 34, method="agresti-caffo")
    assert wald == pytest.approx((0.02916942, 0.32377176), abs=1e-8)
    assert caffo == pytest.approx((0.01161167, 0.32172166), abs=1e-8)
    assert caffo[0] < difference.low < wald[0]
    assert wald[1] < difference.high


def test_the_published_power_of_r_comes_out():
    assert proportion_power(50, 0.50, 0.75) == pytest.approx(0.740, abs=0.0005)
    assert proportion_users(0.50, 0.75, power=0.90) == pytest.approx(76.7, abs=0.05)


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_the_test_and_interval_are_those_of_statsmodels(n, m, data):
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    assume(0 < a + b < n + m)
    ours = compare_proportions(a, n, b, m)
    z, p = proportions_ztest([b, a], [m, n])
    assert ours.z == pytest.approx(z, rel=1e-9, abs=1e-12)
    assert ours.p_value == pytest.approx(p, rel=1e-9)
    assert same_proportions([a, b], [n, m]).chi_square == pytest.approx(z**2, rel=1e-9, abs=1e-12)
    assert -1 <= ours.difference.low <= ours.difference.value <= ours.difference.high <= 1


def score(difference: float, counts: tuple[int, int, int, int]) -> float:
    """The score statistic, with the most likely shares of that difference found by brute force."""
    a, n, b, m = counts
    lowest, highest = max(0.0, -difference), min(1.0, 1.0 - difference)
    control = np.linspace(lowest, highest, 400_001)[1:-1]
    treatment = control + difference
    logs = xlogy(a, control) + xlogy(n - a, 1 - control) + xlogy(b, treatment) + xlogy(m - b, 1 - treatment)
    p, q = control[logs.argmax()], treatment[logs.argmax()]
    variance = (p * (1 - p) / n + q * (1 - q) / m) * (n + m) / (n + m - 1)
    return (b / m - a / n - difference) / np.sqrt(variance)


@pytest.mark.parametrize("counts", [(120, 1_000, 150, 1_010), (1, 34, 7, 34), (300, 900, 280, 450), (0, 30, 3, 20)])
def test_the_interval_holds_the_differences_that_the_score_test_does_not_reject(counts):
    found = compare_proportions(*counts).difference
    assert score(found.low, counts) == pytest.approx(1.96, abs=0.001)
    assert score(found.high, counts) == pytest.approx(-1.96, abs=0.001)


def test_power_is_how_often_the_test_sees_the_difference():
    rng = np.random.default_rng(1)
    a, b = rng.binomial(2_000, 0.10, 2_000), rng.binomial(2_000, 0.125, 2_000)
    seen = np.mean([compare_proportions(x, 2_000, y, 2_000).p_value < 0.05 for x, y in zip(a, b, strict=True)])
    assert proportion_power(2_000, 0.10, 0.125) == pytest.approx(seen, abs=0.025)


@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_planned_users_have_the_planned_power(power):
    assert proportion_power(proportion_users(0.1, 0.12, power), 0.1, 0.12) == pytest.approx(power)


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(ComparisonError, match="are no shares"):
        compare_proportions(5, 4, 1, 4)
    with pytest.raises(ComparisonError, match="Everybody or nobody"):
        compare_proportions(0, 4, 0, 4)
    with pytest.raises(ComparisonError, match="no difference to find"):
        proportion_users(0.5, 0.5)
