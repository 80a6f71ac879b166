"""PSI and friends against textbook loops, scipy and a published case."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from ranking import metrics
from ranking.distances import (
    chi_square_p,
    hellinger,
    jensen_shannon,
    kolmogorov_smirnov,
    null_stability,
    population_stability,
)

DISTANCES = (population_stability, hellinger, jensen_shannon, kolmogorov_smirnov)
counts = st.lists(st.integers(0, 10_000), min_size=2, max_size=12)
pairs = st.integers(2, 12).flatmap(
    lambda bins: st.tuples(*(st.lists(st.integers(0, 5_000), min_size=bins, max_size=bins) for _ in range(2)))
)


def textbook_psi(reference, current):
    """Siddiqi's sum, bin by bin, an empty bin counting half a row."""
    kept = [(a or 0.5, b or 0.5) for a, b in zip(reference, current, strict=True) if a or b]
    rows, others = sum(a for a, _ in kept), sum(b for _, b in kept)
    return sum((b / others - a / rows) * math.log((b / others) / (a / rows)) for a, b in kept)


def test_evidentlys_published_case():
    reference, current = (16, 18, 16, 14, 12, 12), (16, 16, 16, 16, 16, 8)
    assert chi_square_p(reference, current) == pytest.approx(0.67309, abs=5e-6)
    assert hellinger(reference, current) == pytest.approx(0.06812, abs=1e-5)


@given(pairs)
def test_psi_is_the_textbooks(pair):
    found = population_stability(*pair)
    if not sum(pair[0]) or not sum(pair[1]):
        assert found is None
    else:
        assert found == pytest.approx(textbook_psi(*pair), abs=1e-12)


def test_psi_of_scores_is_the_one_that_comparisons_report():
    rng = np.random.default_rng(0)
    old, new = rng.beta(2, 5, 5_000), rng.beta(2, 4, 3_000)
    edges = np.quantile(old, np.linspace(0, 1, 11)[1:-1])
    bins = [np.bincount(np.searchsorted(edges, scores, side="right"), minlength=10) for scores in (old, new)]
    assert population_stability(*bins) == pytest.approx(metrics.population_stability(old, new), abs=1e-12)


@given(pairs)
def test_the_other_distances_are_scipys(pair):
    reference, current = (np.array(side, dtype=float) for side in pair)
    if not reference.sum() or not current.sum():
        assert hellinger(*pair) is jensen_shannon(*pair) is kolmogorov_smirnov(*pair) is chi_square_p(*pair) is None
        return
    p, q = reference / reference.sum(), current / current.sum()
    # scipy takes the root of a rounding error where two sides are the same: 1e-8 of it is nothing
    assert jensen_shannon(*pair) == pytest.approx(np.nan_to_num(distance.jensenshannon(p, q)), abs=1e-7)
    assert hellinger(*pair) == pytest.approx(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2), abs=1e-7)


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 500)), min_size=2, max_size=12))
def test_the_chi_square_p_is_scipys(bins):
    reference, current = (np.array(side, dtype=float) for side in zip(*bins, strict=True))
    if current.sum():
        expected = reference / reference.sum() * current.sum()
        assert chi_square_p(reference, current) == pytest.approx(stats.chisquare(current, expected).pvalue, abs=1e-9)


def test_kolmogorov_smirnov_is_scipys_on_values_that_are_bins():
    rng = np.random.default_rng(1)
    old, new = rng.integers(0, 8, 900), rng.binomial(7, 0.4, 700)
    bins = [np.bincount(values, minlength=8) for values in (old, new)]
    assert kolmogorov_smirnov(*bins) == pytest.approx(stats.ks_2samp(old, new).statistic, abs=1e-12)


@pytest.mark.parametrize("measure", DISTANCES)
@given(pair=pairs)
def test_a_distance_is_never_negative_and_the_same_both_ways(measure, pair):
    found = measure(*pair)
    if found is not None:
        assert found >= -1e-15
        assert math.isfinite(found)
        assert measure(*reversed(pair)) == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("measure", DISTANCES)
@given(side=counts)
def test_nothing_is_further_from_itself_than_zero(measure, side):
    if sum(side):
        assert measure(side, side) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("measure", [*DISTANCES, chi_square_p])
def test_without_rows_on_one_side_there_is_no_distance(measure):
    assert measure([0, 0], [3, 4]) is None
    assert measure([3, 4], [0, 0]) is None


def test_by_chance_psi_is_chi_square_over_the_number_of_users():
    rng = np.random.default_rng(2)
    shares, old, new = np.array([0.05, 0.1, 0.15, 0.3, 0.4]), 4_000, 1_500
    found = [population_stability(*(rng.multinomial(size, shares) for size in (old, new))) for _ in range(4_000)]
    assert np.mean(found) == pytest.approx((1 / old + 1 / new) * 4, rel=0.05)
    assert np.quantile(found, 0.99) == pytest.approx(null_stability(old, new, 5, 0.99), rel=0.08)
    assert null_stability(0, new, 5, 0.99) is None
    assert null_stability(old, new, 1, 0.99) is None


def test_users_who_bring_many_rows_make_psi_noisier_than_the_rows_say():
    rng = np.random.default_rng(3)
    users, each = 800, 12
    tastes = [np.repeat(rng.integers(0, 10, users), each) for _ in range(400)]
    found = [
        population_stability(np.bincount(a, minlength=10), np.bincount(b, minlength=10))
        for a, b in zip(tastes[::2], tastes[1::2], strict=True)
    ]
    assert np.quantile(found, 0.99) == pytest.approx(null_stability(users, users, 10, 0.99), rel=0.25)
    assert np.quantile(found, 0.99) > 5 * null_stability(users * each, users * each, 10, 0.99)
