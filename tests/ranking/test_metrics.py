"""Metrics against scikit-learn and against slow, obvious implementations."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import ndcg_score, roc_auc_score, roc_curve

from ranking import metrics, placements, toplists
from ranking.errors import ComparisonError


@st.composite
def scored_rows(draw, min_size=2, max_size=40):
    """Labels, tied scores, groups and weights of a few rows."""
    rows = draw(st.integers(min_size, max_size))
    sized = {"min_size": rows, "max_size": rows}
    labels = np.array(draw(st.lists(st.integers(0, 1), **sized)))
    scores = np.array(draw(st.lists(st.integers(1, 9), **sized))) / 10
    groups = np.array(draw(st.lists(st.integers(0, 4), **sized)))
    weights = np.array(draw(st.lists(st.integers(1, 5), **sized))).astype(float)
    return labels, scores, groups, weights


def slow_auc(labels, scores, weights=None):
    weights = np.ones(len(labels)) if weights is None else weights
    right = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            total += pair
            right += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return right / total if total else None


def slow_gauc(labels, scores, groups, weights):
    areas = [
        (slow_auc(labels[at], scores[at], weights[at]), weights[at].sum())
        for at in (groups == group for group in np.unique(groups))
    ]
    areas = [(area, weight) for area, weight in areas if area is not None]
    return sum(a * w for a, w in areas) / sum(w for _, w in areas) if areas else None


@settings(deadline=None)
@given(scored_rows())
def test_auc_counts_pairs_with_ties_as_half(rows):
    labels, scores, _, weights = rows
    for given_weights in (None, weights):
        expected, found = slow_auc(labels, scores, given_weights), metrics.auc(labels, scores, given_weights)
        assert (found is None) == (expected is None)
        if expected is not None:
            assert found == pytest.approx(expected, abs=1e-12)
            assert found == pytest.approx(roc_auc_score(labels, scores, sample_weight=given_weights), abs=1e-12)


@settings(deadline=None)
@given(scored_rows())
def test_gauc_is_the_impression_weighted_mean_of_the_auc_within_groups(rows):
    labels, scores, groups, weights = rows
    expected, found = slow_gauc(labels, scores, groups, weights), metrics.gauc(labels, scores, groups, weights)
    assert found == (pytest.approx(expected, abs=1e-12) if expected is not None else None)


@settings(deadline=None)
@given(scored_rows())
def test_log_loss_and_normalised_entropy_agree_with_scikit_learn(rows):
    labels, scores, _, weights = rows
    expected = sklearn_log_loss(labels, scores, sample_weight=weights, labels=[0, 1])
    assert metrics.log_loss(labels, scores, weights) == pytest.approx(expected, rel=1e-12)
    entropy = metrics.normalised_entropy(labels, scores, weights)
    if len(set(labels)) == 1:
        assert entropy is None
    else:
        constant = np.full(len(labels), np.average(labels, weights=weights))
        base = sklearn_log_loss(labels, constant, sample_weight=weights, labels=[0, 1])
        assert entropy == pytest.approx(expected / base, rel=1e-9)


@settings(deadline=None)
@given(scored_rows())
def test_a_row_of_weight_three_counts_as_three_rows(rows):
    labels, scores, groups, weights = rows
    times = weights.astype(int)
    repeated = [np.repeat(values, times) for values in (labels, scores, groups)]
    for weighted, plain in (
        (metrics.auc(labels, scores, weights), metrics.auc(*repeated[:2])),
        (metrics.gauc(labels, scores, groups, weights), metrics.gauc(*repeated)),
        (metrics.predicted_to_actual(labels, scores, weights), metrics.predicted_to_actual(*repeated[:2])),
    ):
        assert weighted == (None if plain is None else pytest.approx(plain, rel=1e-9, abs=1e-12))


def slow_ndcg(labels, scores, k):
    """NDCG averaged over every order that the ties allow."""
    discount = 1 / np.log2(np.arange(len(labels)) + 2)
    discount[k:] = 0
    gains = []
    for order in permutations(range(len(labels))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            gains.append((labels[list(order)] * discount).sum())
    ideal = (np.sort(labels)[::-1] * discount).sum()
    return np.mean(gains) / ideal


@settings(max_examples=40, deadline=None)
@given(scored_rows(max_size=6), st.integers(1, 7))
def test_ndcg_of_a_group_is_the_mean_over_all_orders_of_its_ties(rows, k):
    labels, scores, _, _ = rows
    ranked = toplists.lists(scores, np.zeros(len(labels), dtype=int))
    found = toplists.ndcg(labels, ranked, k)
    if labels.min() == labels.max():
        assert found is None
    else:
        assert found == pytest.approx(slow_ndcg(labels, scores, k), abs=1e-12)
        assert found == pytest.approx(ndcg_score([labels], [scores], k=k), abs=1e-9)


@settings(deadline=None)
@given(scored_rows(), st.integers(1, 5))
def test_ndcg_and_reciprocal_rank_average_the_groups_with_both_labels(rows, k):
    labels, scores, groups, _ = rows
    ndcg, reciprocal = [], []
    for at in (groups == group for group in np.unique(groups)):
        y, s = labels[at], scores[at]
        if y.min() == y.max():
            continue
        ndcg.append(ndcg_score([y], [s], k=k))
        best = s[y == 1].max()
        reciprocal.append(1 / (1 + ((s >= best) & (y == 0)).sum()))
    ranked = toplists.lists(scores, groups)
    assert toplists.ndcg(labels, ranked, k) == (pytest.approx(np.mean(ndcg), abs=1e-9) if ndcg else None)
    found = toplists.mean_reciprocal_rank(labels, ranked)
    assert found == (pytest.approx(np.mean(reciprocal), abs=1e-12) if reciprocal else None)


@settings(deadline=None)
@given(scored_rows())
def test_metrics_do_not_depend_on_the_order_of_the_rows(rows):
    labels, scores, groups, _ = rows
    order = np.random.default_rng(1).permutation(len(labels))
    within, again = metrics.gauc(labels, scores, groups), metrics.gauc(labels[order], scores[order], groups[order])
    assert within == (None if again is None else pytest.approx(again, abs=1e-12))
    before = toplists.ndcg(labels, toplists.lists(scores, groups), 3)
    after = toplists.ndcg(labels[order], toplists.lists(scores[order], groups[order]), 3)
    assert before == (None if after is None else pytest.approx(after, abs=1e-12))


def test_the_roc_curve_lies_on_that_of_scikit_learn_and_spans_the_square():
    rng = np.random.default_rng(3)
    labels = rng.random(5000) < 0.2
    scores = np.round(rng.random(5000) * 0.5 + labels * 0.2, 2)
    false, true = metrics.roc(labels, scores, points=50)
    expected_false, expected_true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert set(zip(false, true, strict=True)) <= set(zip(expected_false, expected_true, strict=True))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)


def test_reliability_bins_hold_all_rows_and_a_calibrated_model_lies_on_the_diagonal():
    rng = np.random.default_rng(4)
    scores = rng.beta(2, 8, 200_000)
    labels = rng.random(200_000) < scores
    binned = metrics.reliability(labels, scores, bins=10)
    assert binned.rows.sum() == 200_000
    assert binned.rows == pytest.approx(20_000, abs=2)
    assert np.abs(binned.predicted - binned.actual).max() < 0.012
    assert metrics.expected_calibration_error(labels, scores) < 0.005
    off = metrics.expected_calibration_error(labels, np.clip(scores + 0.1, 0, 1))
    assert off == pytest.approx(0.1, abs=0.005)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 12), st.booleans())
def test_reliability_and_psi_are_those_of_bins_filled_row_by_row(seed, rows, bins, tied):
    rng = np.random.default_rng(seed)
    scores, other = (np.round(rng.random(rows), 1) if tied else rng.random(rows) for _ in range(2))
    labels = rng.integers(0, 2, rows)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]))
    edges = edges[edges > scores.min()]
    code = [sum(edge <= score for edge in edges) for score in scores]
    expected = [
        (np.mean(scores[at]), np.mean(labels[at]), at.sum())
        for at in (np.array(code) == number for number in range(len(edges) + 1))
        if at.any()
    ]
    found = metrics.reliability(labels, scores, bins)
    assert list(zip(found.predicted, found.actual, found.rows, strict=True)) == [pytest.approx(e) for e in expected]
    psi = metrics.population_stability(scores, other, bins)
    if not len(edges):
        assert psi is None
        return
    now = [sum(edge <= score for edge in edges) for score in other]
    p, q = (np.maximum(np.bincount(c, minlength=len(edges) + 1), 0.5) for c in (code, now))
    assert psi == pytest.approx(
        (((q / q.sum()) - p / p.sum()) * np.log((q / q.sum()) / (p / p.sum()))).sum(), abs=1e-12
    )


@pytest.mark.parametrize("tied", [False, True])
def test_rows_are_sorted_stably_whatever_the_machine(tied):
    scores = np.random.default_rng(9).random(5_000)
    scores = np.round(scores, 2) if tied else scores
    assert placements.ascending(scores).tolist() == np.argsort(scores, kind="stable").tolist()


def test_reliability_of_a_constant_score_is_one_bin():
    binned = metrics.reliability([0, 1, 1, 1], [0.5] * 4)
    assert (binned.predicted.tolist(), binned.actual.tolist(), binned.rows.tolist()) == ([0.5], [0.75], [4.0])


def test_psi_is_zero_for_the_same_scores_and_grows_with_the_shift():
    scores = np.random.default_rng(5).normal(size=20_000)
    assert metrics.population_stability(scores, scores) == 0
    small, large = (metrics.population_stability(scores, scores + shift) for shift in (0.1, 1.0))
    assert 0 < small < 0.05
    assert large > 0.5
    assert metrics.population_stability([0.3, 0.3, 0.3], [0.1, 0.2, 0.3]) is None


def test_overlap_of_a_model_with_itself_is_one_and_with_its_reverse_is_none_of_the_top():
    groups = np.repeat([0, 1, 2], [30, 25, 3])
    scores = np.random.default_rng(6).random(58)
    same = toplists.lists(scores, groups)
    assert toplists.top_overlap(same, same, 10) == 1.0
    assert toplists.top_overlap(same, toplists.lists(-scores, groups), 10) == 0.0
    assert toplists.top_overlap(same, same, 30) is None, "no list is longer than 30"


def test_popularity_share_counts_the_top_places_of_the_most_shown_items():
    items = np.array([0] * 10 + list(range(1, 11)))
    groups = np.zeros(20, dtype=int)
    popular_first = toplists.lists(np.arange(20)[::-1], groups)
    assert toplists.popularity_share(popular_first, items, k=10) == 1.0
    assert toplists.popularity_share(toplists.lists(np.arange(20), groups), items, k=10) == 0.0


def test_correlation_is_pearsons_and_none_for_a_constant():
    rng = np.random.default_rng(7)
    left, right = rng.random(100), rng.random(100)
    assert metrics.correlation(left, right) == pytest.approx(np.corrcoef(left, right)[0, 1])
    assert metrics.correlation(left, np.full(100, 0.2)) is None


def test_what_cannot_be_measured_is_none_and_never_a_number():
    ones, scores = np.ones(4), np.array([0.1, 0.2, 0.3, 0.4])
    assert metrics.auc(ones, scores) is None
    assert metrics.gauc([0, 0, 1, 1], scores, [0, 0, 1, 1]) is None
    assert metrics.normalised_entropy(ones, scores) is None
    assert metrics.predicted_to_actual(np.zeros(4), scores) is None
    assert metrics.roc(ones, scores) is None
    assert metrics.auc([0, 1], [0.5, 0.5]) == 0.5, "a constant ranks nothing, and that is measured"


def test_log_loss_of_a_certain_miss_is_finite():
    assert metrics.log_loss([1, 0], [0.0, 0.0]) == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "said"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], None, "1 of 3 labels are neither 0 nor 1, such as"),
        ([0, 1], [0.1, np.nan], None, "1 of 2 scores are NaN or infinite"),
        ([0, 1], [0.1, np.inf], None, "1 of 2 scores are NaN or infinite"),
        ([0, 1], [0.1], None, "scores have shape (1,), the holdout has 2 rows"),
        ([], [], None, "at least one row"),
        ([0, 1], [0.1, 0.2], [1.0, 0.0], "1 of 2 weights are not positive"),
        ([0, 1], [0.1, 0.2], [1.0], "weights have shape (1,)"),
    ],
)
def test_input_that_cannot_be_right_is_refused_with_numbers(labels, scores, weights, said):
    with pytest.raises(ComparisonError) as refused:
        metrics.auc(labels, scores, weights)
    assert said in str(refused.value)


def test_a_missing_group_is_refused():
    with pytest.raises(ComparisonError, match="1 of 2 rows have no group"):
        metrics.gauc([0, 1], [0.1, 0.2], [0, -1])
