"""Standard errors against independent implementations; what is measured, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ranking import influence, metrics
from ranking.clusters import Clusters, InfluenceSums, critical
from ranking.comparison import Scored, by_value, codes
from ranking.errors import ComparisonError
from tests.ranking.gate_values import CHALLENGER, HOLDOUT, measured, random_scored


def delong(labels, *models):
    """DeLong, DeLong & Clarke-Pearson (1988) from all pairs: AUCs and their covariance."""
    areas, clicks, others = [], [], []
    for scores in models:
        x, y = scores[labels], scores[~labels]
        pairs = (x[:, None] > y).astype(float) + 0.5 * (x[:, None] == y)
        areas.append(pairs.mean())
        clicks.append(pairs.mean(axis=1))
        others.append(pairs.mean(axis=0))
    covariance = np.atleast_2d(np.cov(clicks)) / labels.sum() + np.atleast_2d(np.cov(others)) / (~labels).sum()
    return np.array(areas), covariance


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 300), st.booleans())
def test_with_every_row_its_own_cluster_the_variance_is_delongs(seed, rows, tied):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3 == 0
    scores = [rng.random(rows) * 0.5 + 0.3 * labels for _ in range(2)]
    if tied:
        scores = [np.round(s, 1) for s in scores]
    found = measured(
        Scored(
            labels=labels,
            champion=scores[0],
            challenger=scores[1],
            users=np.arange(rows),
            items=rng.permutation(rows),
            row_ids=np.arange(rows),
        )
    ).auc
    areas, covariance = delong(labels, *scores)
    assert (found.champion.value, found.challenger.value) == pytest.approx(areas, abs=1e-12)
    assert found.champion.se**2 == pytest.approx(covariance[0, 0], abs=1e-9)
    assert found.champion.se**2 == pytest.approx(covariance[0, 0], rel=1e-9)
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert found.difference.se**2 == pytest.approx(expected, rel=1e-9, abs=1e-15)


def obuchowski(labels, scores, users):
    """Obuchowski (1997), her formulas cluster by cluster."""
    m, n = labels.sum(), (~labels).sum()
    pairs = (scores[labels][:, None] > scores[~labels]) + 0.5 * (scores[labels][:, None] == scores[~labels])
    area = pairs.mean()
    placed = np.empty(len(labels))
    placed[labels], placed[~labels] = pairs.mean(axis=1), pairs.mean(axis=0)
    clicks, others = [], []
    for user in np.unique(users):
        at = users == user
        clicks.append((placed[at & labels] - area).sum())
        others.append((placed[at & ~labels] - area).sum())
    clicks, others = np.array(clicks), np.array(others)
    with_clicks = len(np.unique(users[labels]))
    with_others = len(np.unique(users[~labels]))
    number = len(clicks)
    s10 = with_clicks / ((with_clicks - 1) * m) * (clicks**2).sum()
    s01 = with_others / ((with_others - 1) * n) * (others**2).sum()
    s11 = number / (number - 1) * (clicks * others).sum()
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_the_variance_between_users_is_obuchowskis():
    rng = np.random.default_rng(2)
    users = rng.integers(0, 30, 400)
    labels = rng.random(400) < 0.3
    scores = np.round(rng.random(400) + 0.2 * labels + 0.3 * rng.random(30)[users], 2)
    measure = influence.auc(labels, scores)
    sums = InfluenceSums.of(measure.influence, Clusters(users, rng.integers(0, 10, 400)), labels)
    assert sums.user.variance() == pytest.approx(obuchowski(labels, scores, users), rel=1e-9)


def test_the_two_way_variance_is_never_below_that_of_users_alone():
    rng = np.random.default_rng(3)
    clusters = Clusters(rng.integers(0, 20, 500), rng.integers(0, 15, 500))
    psi = rng.normal(size=500) + rng.normal(size=15)[clusters.items]
    psi -= psi.mean()
    sums = InfluenceSums.of(psi, clusters)
    users = np.bincount(clusters.users, psi)
    items = np.bincount(clusters.items, psi)
    expected = 20 / 19 * (users**2).sum() + 15 / 14 * (items**2).sum() - 500 / 499 * (psi**2).sum()
    assert sums.variance() == pytest.approx(max(expected, 20 / 19 * (users**2).sum()), rel=1e-12)


@pytest.mark.parametrize("metric", ["auc", "gauc", "log_loss", "normalised_entropy", "calibration"])
def test_an_influence_is_the_change_of_the_metric_when_a_row_weighs_a_little_more(metric):
    rng = np.random.default_rng(4)
    rows = 60
    labels, groups = rng.random(rows) < 0.4, rng.integers(0, 6, rows)
    scores, weights = np.round(rng.random(rows), 1) * 0.8 + 0.1, rng.uniform(0.5, 2, rows)
    plain = {
        "auc": lambda w: metrics.auc(labels, scores, w),
        "gauc": lambda w: metrics.gauc(labels, scores, groups, w),
        "log_loss": lambda w: metrics.log_loss(labels, scores, w),
        "normalised_entropy": lambda w: metrics.normalised_entropy(labels, scores, w),
        "calibration": lambda w: metrics.predicted_to_actual(labels, scores, w),
    }[metric]
    extra = {"groups": groups} if metric == "gauc" else {}
    measure = getattr(influence, metric)(labels, scores, **extra, weights=weights)
    assert measure.value == pytest.approx(plain(weights), abs=1e-12)
    for row in range(rows):
        step = np.zeros(rows)
        step[row] = 1e-5 * weights[row]
        slope = (plain(weights + step) - plain(weights - step)) / 2e-5
        assert measure.influence[row] == pytest.approx(slope, abs=1e-8)


def test_sums_of_two_shards_give_the_variance_of_the_whole():
    rng = np.random.default_rng(5)
    clusters = Clusters(rng.integers(0, 40, 1000), rng.integers(0, 30, 1000))
    psi, labels = rng.normal(size=1000), rng.random(1000) < 0.3
    whole = InfluenceSums.of(psi, clusters, labels)
    first, second = np.arange(300), np.arange(300, 1000)
    merged = InfluenceSums.of(psi[first], clusters.subset(first), labels[first]) + InfluenceSums.of(
        psi[second], clusters.subset(second), labels[second]
    )
    assert merged.variance() == pytest.approx(whole.variance(), rel=1e-12)


def test_the_critical_value_is_students_by_the_smaller_number_of_clusters():
    assert critical(0.975, 1_000_000) == pytest.approx(1.95996, abs=1e-4)
    assert critical(0.975, 10) == pytest.approx(2.2622, abs=1e-4)


def test_a_comparison_measures_both_models_and_the_difference():
    scored = random_scored(20_000, users=800, items=300)
    found = measured(scored)
    assert found.auc.champion.value == pytest.approx(roc_auc_score(scored.labels, scored.champion), abs=1e-12)
    assert found.auc.challenger.value == pytest.approx(roc_auc_score(scored.labels, scored.challenger), abs=1e-12)
    for metric in (found.auc, found.gauc, found.log_loss, found.calibration, found.others[0]):
        gained = metric.challenger.value - metric.champion.value
        assert metric.difference.value == pytest.approx(gained, abs=1e-12)
        assert metric.difference.low < metric.difference.value < metric.difference.high
        assert 0 < metric.difference.se < metric.challenger.se * 2
    assert (found.rows, found.users, found.items) == (20_000, 800, 300)
    assert found.positives == scored.labels.sum()
    assert [metric.name for metric in found.others] == [
        "normalised_entropy",
        "ndcg_at_10",
        "mean_reciprocal_rank",
        "expected_calibration_error",
        "popularity_share_at_10",
    ]
    assert 0 < found.agreement.top_overlap < 1
    assert found.challenger_lines.roc.x[-1] == found.challenger_lines.roc.y[-1] == 1


def test_the_first_model_is_measured_alone():
    found = measured(random_scored(2000, users=100, items=50, champion=None))
    assert found.auc.challenger.value > 0.6
    assert found.auc.champion is None
    assert found.auc.difference is None
    assert found.score_correlation is None


def test_the_holdouts_digest_depends_on_rows_and_labels_but_not_on_their_order():
    scored = random_scored(500, users=20, items=20)
    order = np.random.default_rng(1).permutation(500)
    shuffled = Scored(
        **{
            name: getattr(scored, name)[order]
            for name in ("labels", "champion", "challenger", "users", "items", "row_ids")
        }
    )
    assert measured(shuffled).holdout_digest == measured(scored).holdout_digest
    labels = scored.labels.copy()
    labels[7] = ~labels[7]
    assert (
        measured(random_scored(500, users=20, items=20, labels=labels)).holdout_digest
        != measured(scored).holdout_digest
    )


def test_weights_of_one_change_nothing_and_other_weights_do():
    plain = measured(random_scored(1000, users=50, items=40))
    ones = measured(random_scored(1000, users=50, items=40, weights=np.ones(1000)))
    weighted = measured(random_scored(1000, users=50, items=40, weights=np.linspace(0.5, 2, 1000)))
    assert ones.auc == plain.auc
    assert ones.gauc == plain.gauc
    assert weighted.auc.difference.value != plain.auc.difference.value


def test_gauc_ranks_within_requests_when_there_are_any():
    by_user = measured(random_scored(2000, users=50, items=40))
    by_request = measured(random_scored(2000, users=50, items=40, groups=np.arange(2000) // 10))
    assert by_request.gauc.champion.value != by_user.gauc.champion.value
    assert by_request.auc == by_user.auc


def test_labels_of_one_class_leave_auc_unmeasured_with_the_reason():
    found = measured(random_scored(300, users=20, items=20, labels=np.zeros(300)))
    assert found.auc.difference is None
    assert found.auc.note == "all 300 labels are 0: AUC needs both"
    assert found.gauc.note == "no group has both clicks and non-clicks: GAUC needs some that do"
    assert found.calibration.note == "the holdout has no click: predicted / actual needs some"
    assert found.log_loss.difference is not None


@pytest.mark.parametrize("one", ["users", "items"])
def test_one_cluster_gives_values_without_standard_errors(one):
    found = measured(replace(random_scored(300, users=20, items=20), **{one: np.zeros(300, dtype=int)}))
    assert found.auc.difference.value > 0
    assert found.auc.difference.se is None
    assert found.log_loss.difference.se is None


def test_gauc_of_a_single_group_has_no_standard_error():
    labels = np.zeros(300)
    labels[:10] = 1
    found = measured(replace(random_scored(300, users=20, items=20, labels=labels), users=np.arange(300) // 30)).gauc
    assert found.difference.value == found.challenger.value - found.champion.value
    assert found.difference.se is None


def test_constant_scores_rank_nothing_and_do_not_correlate():
    found = measured(random_scored(300, users=20, items=20, challenger=np.full(300, 0.3)))
    assert found.auc.challenger.value == 0.5
    assert found.challenger_scores.constant
    assert found.score_correlation is None


def test_a_challenger_without_a_score_for_every_row_is_measured_as_broken():
    broken = np.full(300, 0.3)
    broken[:12] = np.nan
    found = measured(random_scored(300, users=20, items=20, challenger=broken))
    assert found.challenger_scores.missing == 12
    assert found.auc.challenger is None
    assert found.auc.difference is None
    assert found.auc.note == "12 of 300 challenger scores are NaN or infinite"
    assert found.auc.champion is not None


def test_a_champion_without_a_score_for_every_row_refuses_the_comparison():
    broken = np.full(300, 0.3)
    broken[0] = np.inf
    with pytest.raises(ComparisonError, match=r"champion \(version 1\) gave NaN or infinite scores on 1 of 300"):
        measured(random_scored(300, users=20, items=20, champion=broken))


def test_slices_are_compared_on_their_own_rows():
    scored = random_scored(5000, users=200, items=50)
    mask = scored.users < 60
    found = measured(random_scored(5000, users=200, items=50, slices={"new_users": mask, "empty": mask & ~mask}))
    part, empty = found.slices
    assert (part.name, part.rows, part.users) == ("new_users", mask.sum(), 60)
    assert part.auc.challenger.value == pytest.approx(roc_auc_score(scored.labels[mask], scored.challenger[mask]))
    assert part.log_loss.difference.se > 0
    assert (empty.rows, empty.auc.difference, empty.auc.note) == (0, None, "no rows")


def test_values_of_a_column_become_slices_when_they_have_enough_clicks():
    values = ["ios"] * 200 + ["web"] * 100 + [None] * 120 + ["tv"] * 20
    labels = np.arange(440) % 2
    found = by_value("device", values, labels, min_positives=50)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "device=ios": 200,
        "device=web": 100,
        "device=missing": 120,
    }


def test_codes_number_ids_of_any_type_and_mark_missing_ones():
    numbers, names = codes(["b", "a", None, "b"])
    assert (numbers.tolist(), names) == ([0, 1, -1, 0], ["b", "a"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"challenger": np.zeros(7)}, r"Scores of the challenger have shape \(7,\), the holdout has 300 rows"),
        ({"users": np.full(300, -1)}, "300 of 300 rows have no user"),
        ({"items": np.zeros(300)}, "item codes have shape"),
        ({"row_ids": np.zeros(300, dtype=int)}, "299 of 300 holdout rows repeat a row_id"),
        ({"slices": {"new_users": np.zeros(300)}}, "Slice 'new_users' has shape"),
        ({"weights": np.zeros(300)}, "300 of 300 weights are not positive"),
    ],
)
def test_arrays_that_cannot_be_right_are_refused_by_name(changes, said):
    with pytest.raises(ComparisonError, match=said):
        measured(replace(random_scored(300, users=20, items=20), **changes))


def test_scores_of_a_champion_without_the_champion_are_refused():
    with pytest.raises(ComparisonError, match="one of the two is missing"):
        measured(random_scored(300, users=20, items=20), champion=None, challenger=CHALLENGER, holdout=HOLDOUT)
