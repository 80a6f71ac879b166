"""The rule at and around its thresholds, its caps, and what it says."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ranking.comparison import Scored
from ranking.decision import Confidence, Decision
from ranking.measurements import ScoreHealth
from ranking.results import ServingCheck
from ranking.verdict import GateKnobs, decide
from tests.ranking.gate_values import comparison, measured, metric, model, random_scored

KNOBS = GateKnobs(slice_names=())


def missions_rule(gain: int) -> Decision:
    """The thresholds as they were asked for, on whole ten-thousandths of AUC."""
    if gain >= 100:
        return Decision.PROMOTE
    if gain < -50:
        return Decision.REJECT
    if gain > 0:
        return Decision.A_B_TEST
    return Decision.REJECT


@settings(deadline=None)
@given(champion=st.integers(5000, 9500), gain=st.integers(-200, 200))
@example(champion=2800, gain=100)
@example(champion=7000, gain=100)
@example(champion=7000, gain=99)
@example(champion=7000, gain=1)
@example(champion=7000, gain=0)
@example(champion=7000, gain=-50)
@example(champion=7000, gain=-51)
def test_without_error_and_guardrails_the_rule_is_the_missions(champion, gain):
    known = comparison(champion / 10_000, (champion + gain) / 10_000, se=0.0)
    assert decide(known, KNOBS, rules=()).decision is missions_rule(gain)


@pytest.mark.parametrize("threshold", [0.01, -0.005, 0.0])
@settings(deadline=None)
@given(champion=st.floats(0.5, 0.95), beyond=st.sampled_from([-1e-6, -1e-9, 1e-9, 1e-6]))
def test_a_billionth_beside_a_threshold_counts(threshold, champion, beyond):
    gain = threshold + beyond
    known = comparison(champion, champion + gain, se=0.0)
    expected = {
        (0.01, True): Decision.PROMOTE,
        (0.01, False): Decision.A_B_TEST,
        (-0.005, True): Decision.REJECT,
        (-0.005, False): Decision.REJECT,
        (0.0, True): Decision.A_B_TEST,
        (0.0, False): Decision.REJECT,
    }[threshold, beyond > 0]
    verdict = decide(known, KNOBS, rules=())
    assert verdict.decision is expected
    assert ("a drop of more than" in verdict.reason) == (gain < -0.005)


@pytest.mark.parametrize(
    ("gain", "se", "decision", "confidence", "said"),
    [
        (0.020, 0.001, Decision.PROMOTE, Confidence.HIGH, "at least 0.0100, proven above 0, and every guardrail is ok"),
        (0.012, 0.005, Decision.PROMOTE, Confidence.MEDIUM, "proven above 0"),
        (0.012, 0.007, Decision.A_B_TEST, Confidence.MEDIUM, "enough of a gain, but not proven above 0"),
        (0.006, 0.001, Decision.A_B_TEST, Confidence.MEDIUM, "less than the 0.0100 that a promotion needs"),
        (0.006, 0.010, Decision.REJECT, Confidence.LOW, "a drop of 0.0050 or more is not ruled out on 50,000 rows"),
        (0.000, 0.001, Decision.REJECT, Confidence.MEDIUM, "no gain, so the champion stays"),
        (-0.002, 0.020, Decision.REJECT, Confidence.LOW, "no gain, so the champion stays"),
        (-0.020, 0.001, Decision.REJECT, Confidence.HIGH, "a drop of more than 0.0050 is never accepted"),
        (-0.020, 0.020, Decision.REJECT, Confidence.MEDIUM, "a drop of more than 0.0050 is never accepted"),
    ],
)
def test_the_rule_with_errors(gain, se, decision, confidence, said):
    verdict = decide(comparison(0.70, 0.70 + gain, se), KNOBS)
    assert (verdict.decision, verdict.confidence) == (decision, confidence)
    assert said in verdict.reason
    assert f"AUC changed by {gain:+.4f} (95% interval" in verdict.reason


def test_without_a_standard_error_nothing_is_promoted():
    verdict = decide(comparison(0.70, 0.80, se=None), KNOBS, rules=())
    assert (verdict.decision, verdict.confidence) == (Decision.REJECT, Confidence.LOW)
    assert "its standard error is not measurable" in verdict.reason
    assert verdict.missing[0].startswith("A holdout with at least two users and two items")
    assert verdict.minimum_detectable_effect is None


def test_proven_harm_rejects_a_large_gain_and_says_which():
    verdict = decide(comparison(log_loss=metric("log_loss", 0.40, 0.42, 0.0005)), KNOBS)
    assert (verdict.decision, verdict.confidence) == (Decision.REJECT, Confidence.HIGH)
    assert "harm is proven. Log loss changed by +5.00%" in verdict.reason


def test_an_unproven_guardrail_turns_a_promotion_into_an_a_b_test_and_is_listed_as_missing():
    verdict = decide(comparison(log_loss=metric("log_loss", 0.40, 0.39, None)), KNOBS)
    assert verdict.decision is Decision.A_B_TEST
    assert "Not proven harmless: Log loss could not be compared" in verdict.reason
    assert any(sentence.startswith("Log loss could not be compared") for sentence in verdict.missing)


def test_a_challenger_that_does_not_serve_is_rejected_whatever_it_gains_first_model_or_not():
    broken = ServingCheck(passed=False, reason="Version 2 does not load in a clean process: no torch.")
    for champion in (model("1"), None):
        verdict = decide(comparison(0.60, 0.75, champion=champion, serving=broken), KNOBS)
        assert (verdict.decision, verdict.confidence) == (Decision.REJECT, Confidence.HIGH)
        assert broken.reason in verdict.reason


def test_a_challenger_that_nobody_asked_is_not_promoted_and_that_is_what_is_missing():
    verdict = decide(comparison(serving=None), KNOBS)
    assert verdict.decision is Decision.A_B_TEST
    assert any("was not asked through MLflow" in sentence for sentence in verdict.missing)


def test_a_small_holdout_says_how_many_rows_are_needed():
    verdict = decide(comparison(0.70, 0.706, se=0.01, rows=5_120), KNOBS)
    assert verdict.missing[0] == (
        "A holdout of 5,120 rows decides nothing: about 79,000 are needed for an AUC gain known to ±0.0050 "
        "(now ±0.0196)."
    )
    needed = 5_120 * (1.96 * 0.01 / 0.005) ** 2
    assert needed == pytest.approx(79_000, rel=0.01)


def test_the_detectable_effect_is_what_would_be_promoted_with_80_percent_probability():
    small = decide(comparison(se=0.01), KNOBS).minimum_detectable_effect
    assert small == pytest.approx((1.96 + 0.8416) * 0.01, rel=0.001)
    large = decide(comparison(se=0.001), KNOBS).minimum_detectable_effect
    assert large == pytest.approx(0.01 + 0.8416 * 0.001, rel=0.001)


def test_a_champion_whose_training_nobody_recorded_is_never_beaten_into_a_promotion():
    verdict = decide(comparison(champion=model("7", learnt=None)), KNOBS)
    assert (verdict.decision, verdict.confidence) == (Decision.A_B_TEST, Confidence.MEDIUM)
    assert "nobody recorded what champion version 7 was trained on" in verdict.reason
    assert "A recorded training window of the champion." in verdict.missing


@pytest.mark.parametrize("correlation", [0.89, None])
def test_models_that_disagree_are_not_promoted_on_impressions_the_champion_chose(correlation):
    apart = comparison(score_correlation=correlation)
    verdict = decide(apart, KNOBS)
    assert verdict.decision is Decision.A_B_TEST
    assert "the impressions were chosen by the champion" in verdict.reason
    explored = decide(apart, KNOBS.model_copy(update={"exploration_holdout": True}))
    assert explored.decision is Decision.PROMOTE
    assert decide(comparison(score_correlation=0.9), KNOBS).decision is Decision.PROMOTE


def test_a_cap_never_makes_a_verdict_better():
    for gain in (-0.02, 0.0):
        capped = decide(comparison(0.70, 0.70 + gain, champion=model("7", learnt=None), score_correlation=0.1), KNOBS)
        assert capped.decision is Decision.REJECT


@pytest.mark.parametrize(
    ("auc", "loss", "se", "outcome", "said"),
    [
        (0.70, 0.45, 0.01, (Decision.PROMOTE, Confidence.HIGH), "there is no champion, and every floor is reached"),
        (0.56, 0.45, 0.01, (Decision.PROMOTE, Confidence.MEDIUM), "every floor is reached"),
        (0.54, 0.45, 0.01, (Decision.REJECT, Confidence.HIGH), "AUC is below the floor of 0.5500"),
        (0.56, 0.45, 0.05, (Decision.REJECT, Confidence.HIGH), "An AUC above 0.5 is not proven"),
        (0.70, 0.50, 0.01, (Decision.REJECT, Confidence.HIGH), "Its log loss is no better than that of a constant"),
        (0.70, 0.45, None, (Decision.REJECT, Confidence.HIGH), "its standard error is not measurable"),
    ],
)
def test_the_first_model_must_reach_the_floors(auc, loss, se, outcome, said):
    first = comparison(
        champion=None,
        auc=metric("auc", None, auc, se),
        log_loss=metric("log_loss", None, loss),
        gauc=metric("gauc", None, 0.6),
        calibration=metric("calibration", None, 1.3, 0.01),
        score_correlation=None,
    )
    verdict = decide(first, KNOBS)
    assert (verdict.decision, verdict.confidence) == outcome
    assert said in verdict.reason
    assert verdict.reason.startswith("First model: AUC")


def test_a_first_model_with_constant_scores_is_rejected_as_harmful():
    constant = random_scored(3000, users=100, items=50, champion=None, challenger=np.full(3000, 0.3))
    verdict = decide(measured(constant), KNOBS)
    assert verdict.decision is Decision.REJECT
    assert "all 3,000 scores are 0.3, which ranks nothing" in verdict.reason


def test_nan_scores_are_rejected_with_high_confidence_and_counted():
    broken = np.full(3000, np.nan)
    verdict = decide(measured(random_scored(3000, users=100, items=50, challenger=broken)), KNOBS)
    assert (verdict.decision, verdict.confidence) == (Decision.REJECT, Confidence.HIGH)
    assert "3,000 of 3,000 scores are NaN or infinite" in verdict.reason


def test_labels_of_one_class_are_rejected_as_not_measurable():
    verdict = decide(measured(random_scored(3000, users=100, items=50, labels=np.ones(3000))), KNOBS, rules=())
    assert (verdict.decision, verdict.confidence) == (Decision.REJECT, Confidence.LOW)
    assert verdict.reason == "AUC could not be compared: all 3000 labels are 1: AUC needs both."
    assert verdict.missing == ("A measurable AUC: all 3000 labels are 1: AUC needs both.",)


def test_two_clicks_that_happen_to_be_ranked_right_promote_nobody():
    labels = np.zeros(3000)
    labels[:2] = 1
    perfect = np.where(labels, 0.9, np.linspace(0.1, 0.2, 3000))
    scored = random_scored(3000, users=100, items=50, labels=labels, challenger=perfect, seed=3)
    verdict = decide(measured(scored), KNOBS.model_copy(update={"exploration_holdout": True}))
    assert verdict.decision is not Decision.PROMOTE
    assert any(sentence.startswith("The holdout has 2 clicks") for sentence in verdict.missing)


def user_level_improvement(loss_of_order: float) -> Scored:
    """The challenger knows who clicks much; within a user it ranks as the champion, or worse."""
    rng = np.random.default_rng(8)
    rows, users = 60_000, 2_000
    user, item = rng.integers(0, users, rows), rng.integers(0, 800, rows)
    activity, taste = 0.7 * rng.normal(size=users)[user], 0.7 * rng.normal(size=rows)
    chance = 1 / (1 + np.exp(1.5 - activity - taste))
    noisy = taste + loss_of_order * rng.normal(size=rows)
    return Scored(
        labels=rng.random(rows) < chance,
        champion=1 / (1 + np.exp(1.4 - 0.95 * taste - 0.1 * activity)),
        challenger=1 / (1 + np.exp(1.5 - activity - noisy)),
        users=user,
        items=item,
        row_ids=np.arange(rows),
    )


@pytest.mark.parametrize("loss_of_order", [0.0, 0.1])
def test_a_gain_between_users_that_reorders_nobodys_feed_is_not_promoted(loss_of_order):
    found = measured(user_level_improvement(loss_of_order))
    assert found.auc.difference.value > 0.04
    assert found.gauc.difference.value < 0.002
    verdict = decide(found, KNOBS.model_copy(update={"exploration_holdout": True}))
    assert verdict.decision is Decision.A_B_TEST
    assert "that puts no user's feed in a better order" in verdict.reason
    assert f"within users or requests (GAUC) by {found.gauc.difference.value:+.4f}" in verdict.reason


def test_the_same_comparison_gives_the_same_verdict_after_a_round_trip_through_json():
    found = measured(random_scored(4000, users=150, items=60))
    again = type(found).model_validate_json(found.model_dump_json())
    assert again == found
    assert decide(again, KNOBS) == decide(found, KNOBS)


def test_a_clearly_better_challenger_is_promoted_on_a_holdout_of_30000_rows():
    scored = random_scored(30_000, users=1500, items=400, seed=5)
    masks = {"new_users": scored.users < 150, "cold_items": scored.items > 350}
    found = measured(random_scored(30_000, users=1500, items=400, seed=5, slices=masks))
    verdict = decide(found, GateKnobs(exploration_holdout=True))
    assert (verdict.decision, verdict.confidence) == (Decision.PROMOTE, Confidence.HIGH)
    assert verdict.missing == ()


def test_scores_of_exactly_one_hold_a_promotion_back():
    certain = ScoreHealth(missing=0, outside=0, certain=5, lowest=0.1, highest=1.0, mean=0.2)
    verdict = decide(comparison(challenger_scores=certain), KNOBS)
    assert verdict.decision is Decision.A_B_TEST
    assert "5 of 50,000 scores are exactly 0 or 1" in verdict.reason
