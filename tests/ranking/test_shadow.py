"""Shadow: two models on the same live requests, and what follows from it."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import log_loss as sklearn_log_loss

from ranking.errors import ComparisonError
from ranking.findings import Status
from ranking.measurements import Estimate
from ranking.shadow import (
    FeatureCoverage,
    ShadowComparison,
    ShadowSums,
    compare_shadow,
    paired_log_loss,
    rank_correlation,
)
from ranking.shadow_checks import ShadowKnobs, check_shadow

FINE = ShadowSums(
    requests=5_000,
    scored=4_999,
    failed=1,
    latency_p99_milliseconds=12.0,
    features=(FeatureCoverage(name="age", live=0.990, training=0.992),),
)


def traffic(seed: int = 1, requests: int = 1_000, candidates: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two related models and the request of each candidate."""
    rng = np.random.default_rng(seed)
    merit = rng.normal(-2, 1, requests * candidates)
    old, new = (1 / (1 + np.exp(-(merit + rng.normal(0, 0.3, len(merit))))) for _ in range(2))
    return old, new, np.repeat(np.arange(requests), candidates)


def compared(**changes: object) -> ShadowComparison:
    old, new, requests = traffic()
    found = compare_shadow(
        FINE,
        old,
        new,
        requests,
        holdout_scores=traffic(seed=2)[1],
        log_loss=Estimate(value=-0.01, se=0.002, low=-0.014, high=-0.006),
    )
    return found.model_copy(update=changes)


def statuses(found: ShadowComparison, knobs: ShadowKnobs | None = None) -> dict[str, Status]:
    return {finding.rule: finding.status for finding in check_shadow(found, knobs or ShadowKnobs())}


def test_a_good_shadow_passes_every_rule():
    found = statuses(compared())
    assert set(found.values()) == {Status.OK}
    assert list(found)[:2] == ["coverage", "feature_coverage"]


def test_the_rank_correlation_is_the_mean_of_scipys_over_the_requests():
    rng = np.random.default_rng(3)
    old, new = rng.integers(0, 4, 300) / 4, rng.integers(0, 4, 300) / 4
    groups = np.repeat(np.arange(30), 10)
    each = [spearmanr(old[groups == g], new[groups == g]).statistic for g in range(30)]
    assert rank_correlation(old, new, groups) == pytest.approx(np.nanmean(each), rel=1e-12)


def test_constant_scores_have_no_rank_correlation():
    assert rank_correlation(np.ones(4), np.arange(4.0), np.zeros(4, dtype=int)) is None
    assert rank_correlation(np.array([]), np.array([]), np.array([], dtype=int)) is None
    assert statuses(compared(rank_correlation=None))["rank_correlation"] is Status.UNPROVEN


def test_a_model_agrees_with_itself():
    old, _, requests = traffic()
    found = compare_shadow(FINE, old, old, requests, holdout_scores=old)
    assert found.rank_correlation == pytest.approx(1.0)
    assert (found.top_overlap, found.stability_index, found.own_stability_index) == (1.0, 0.0, 0.0)


def test_less_than_99_percent_scored_is_a_broken_measurement():
    found = check_shadow(compared(sums=FINE.model_copy(update={"scored": 4_949})), ShadowKnobs())
    assert (found[0].rule, found[0].status) == ("coverage", Status.HARM)
    assert found[0].sentence == "4,949 of 5,000 chosen requests were scored (98.98%); 99% are needed."
    assert statuses(compared(sums=FINE.model_copy(update={"scored": 4_950})))["coverage"] is Status.OK


def test_a_feature_that_is_known_less_often_than_in_training_is_named():
    broken = FeatureCoverage(name="user_ctr_7d", live=0.61, training=0.98)
    sums = FINE.model_copy(update={"features": (*FINE.features, broken)})
    finding = check_shadow(compared(sums=sums), ShadowKnobs())[1]
    assert finding.status is Status.HARM
    assert finding.sentence.startswith(
        "Feature 'user_ctr_7d' was known in 61.0% of the live rows, and in 98.0% in training"
    )


def test_a_feature_bug_that_moves_the_scores_shows_against_the_models_own_holdout():
    old, new, requests = traffic(requests=250)
    shifted = 1 / (1 + np.exp(-(np.log(new / (1 - new)) + 0.6)))
    found = compare_shadow(FINE, old, shifted, requests, holdout_scores=traffic(seed=2)[1])
    finding = next(f for f in check_shadow(found, ShadowKnobs()) if f.rule == "own_shift")
    assert finding.status is Status.HARM
    assert "and may be at most 0.2" in finding.sentence
    assert found.rank_correlation > 0.7, "the order alone would not have told"


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("errors", {"sums": FINE.model_copy(update={"failed": 6})}),
        ("latency", {"sums": FINE.model_copy(update={"latency_p99_milliseconds": 51.0})}),
        ("rank_correlation", {"rank_correlation": 0.2}),
        ("log_loss", {"log_loss": Estimate(value=0.02, se=0.002, low=0.016, high=0.024)}),
    ],
)
def test_each_limit_is_harm_when_passed(rule, change):
    assert statuses(compared(**change))[rule] is Status.HARM


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("coverage", {"sums": FINE.model_copy(update={"requests": 0, "scored": 0, "failed": 0})}),
        ("errors", {"sums": FINE.model_copy(update={"requests": 0, "scored": 0, "failed": 0})}),
        ("latency", {"sums": FINE.model_copy(update={"latency_p99_milliseconds": None})}),
        ("own_shift", {"own_stability_index": None}),
        ("log_loss", {"log_loss": None}),
        ("log_loss", {"log_loss": Estimate(value=0.0, se=0.004, low=-0.008, high=0.008)}),
    ],
)
def test_what_was_not_measured_is_unproven(rule, change):
    assert statuses(compared(**change))[rule] is Status.UNPROVEN


def test_nothing_scored_compares_nothing():
    nothing = FINE.model_copy(update={"scored": 0})
    found = compare_shadow(nothing, [], [], np.array([], dtype=int), holdout_scores=[0.5])
    assert (found.rank_correlation, found.top_overlap, found.stability_index, found.own_stability_index) == (None,) * 4
    assert found.coverage == 0.0


def test_the_log_loss_is_paired_and_its_error_is_between_users():
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(2_000), 5)
    truth = np.clip(rng.beta(2, 18, len(users)) + np.repeat(rng.normal(0, 0.02, 2_000), 5), 0.01, 0.99)
    labels = rng.random(len(users)) < truth
    noisy = np.clip(truth + rng.normal(0, 0.03, len(users)), 0.01, 0.99)
    found = paired_log_loss(users, labels, noisy, truth)
    expected = sklearn_log_loss(labels, truth) / sklearn_log_loss(labels, noisy) - 1
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.low < expected < found.high < 0
    assert paired_log_loss(users[:50], labels[:50], noisy[:50], truth[:50]) is None


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ComparisonError, match="challenger scores are NaN"):
        compare_shadow(FINE, [0.1], [np.nan], [0])


def test_a_comparison_survives_json():
    found = compared()
    assert ShadowComparison.model_validate_json(found.model_dump_json()) == found


def test_scores_are_held_against_those_of_rows_that_came_about_alike():
    old, new, requests = traffic()
    best = np.sort(new)[-len(new) // 4 :]
    chosen = compare_shadow(FINE, old, new, requests, holdout_scores=new, live_scores=best)
    everything = compare_shadow(FINE, old, new, requests, holdout_scores=new)
    assert everything.own_stability_index == pytest.approx(0.0, abs=1e-9)
    assert chosen.own_stability_index is not None
    assert chosen.own_stability_index > 1
