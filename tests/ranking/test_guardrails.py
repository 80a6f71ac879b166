"""Each rule's three answers, with the reason."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.findings import Finding, Status
from ranking.guardrails import GUARDRAILS, check, worst
from ranking.guardrails.knobs import GuardrailKnobs
from ranking.guardrails.quality import calibration, gauc, log_loss
from ranking.guardrails.sanity import evidence, latency, score_sanity, size
from ranking.guardrails.serving import serving
from ranking.guardrails.slices import holm, slices
from ranking.measurements import Costs, ScoreHealth, SliceComparison
from ranking.results import ServingCheck
from tests.ranking.gate_values import SERVES, comparison, measured, metric, random_scored

KNOBS = GuardrailKnobs(slice_names=())


def health(**changes):
    fields = {"missing": 0, "outside": 0, "certain": 0, "lowest": 0.1, "highest": 0.9, "mean": 0.3}
    return ScoreHealth(**(fields | changes))


@pytest.mark.parametrize(
    ("scores", "status", "said"),
    [
        (health(), Status.OK, "all 50,000 scores lie between 0.1 and 0.9"),
        (health(missing=3), Status.HARM, "3 of 50,000 scores are NaN or infinite"),
        (health(outside=2), Status.HARM, "2 of 50,000 scores are below 0 or above 1"),
        (health(certain=1), Status.UNPROVEN, "1 of 50,000 scores are exactly 0 or 1"),
        (health(highest=0.1), Status.HARM, "all 50,000 scores are 0.1, which ranks nothing"),
        (None, Status.UNPROVEN, "were not looked at"),
    ],
)
def test_scores_are_numbers_within_0_and_1_and_not_all_the_same(scores, status, said):
    found = score_sanity(comparison(challenger_scores=scores), KNOBS)
    assert found.status is status
    assert said in found.sentence


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OK),
        ({"positives": 49}, Status.UNPROVEN),
        ({"positives": 49_951}, Status.UNPROVEN),
        ({"users": 19}, Status.UNPROVEN),
        ({"items": 19}, Status.UNPROVEN),
    ],
)
def test_few_clicks_users_or_items_prove_nothing(changes, status):
    found = evidence(comparison(**changes), KNOBS)
    assert found.status is status
    assert "standard errors need 50 of each label and 20 users and items" in found.sentence


@pytest.mark.parametrize(
    ("challenger", "se", "status", "said"),
    [
        (0.400, 0.0005, Status.OK, "changed by +0.00% (one-sided bounds -0.21% and +0.21%): not worse"),
        (0.400, 0.0020, Status.UNPROVEN, "not proven to be within the margin of 0.50%"),
        (0.404, 0.0005, Status.HARM, "changed by +1.00% (one-sided bounds +0.79% and +1.21%): proven worse"),
        (0.404, 0.0020, Status.UNPROVEN, "not proven to be within the margin"),
        (0.300, None, Status.UNPROVEN, "its standard error is not measurable"),
        (None, 0.0, Status.UNPROVEN, "Log loss could not be compared"),
    ],
)
def test_log_loss_must_be_proven_within_half_a_percent(challenger, se, status, said):
    found = log_loss(comparison(log_loss=metric("log_loss", 0.4, challenger, se)), KNOBS)
    assert found.status is status
    assert said in found.sentence


@pytest.mark.parametrize(
    ("challenger", "se", "status", "said"),
    [
        (0.660, 0.002, Status.OK, "not worse by the margin of 0.0050"),
        (0.649, 0.001, Status.UNPROVEN, "no user's feed in a better order"),
        (0.650, 0.001, Status.UNPROVEN, "no user's feed in a better order"),
        (0.660, 0.020, Status.UNPROVEN, "not proven to be within the margin"),
        (0.640, 0.001, Status.HARM, "proven worse by more than the margin of 0.0050"),
        (None, 0.0, Status.UNPROVEN, "GAUC could not be compared"),
    ],
)
def test_ranking_within_users_must_be_proven_better_when_auc_is(challenger, se, status, said):
    found = gauc(comparison(gauc=metric("gauc", 0.65, challenger, se)), KNOBS)
    assert found.status is status
    assert said in found.sentence


def test_the_proof_of_a_gauc_gain_can_be_waived_but_not_the_margin():
    waived = KNOBS.model_copy(update={"gauc_gain_required": False})
    assert gauc(comparison(gauc=metric("gauc", 0.65, 0.65, 0.001)), waived).status is Status.OK
    assert gauc(comparison(gauc=metric("gauc", 0.65, 0.65, 0.01)), waived).status is Status.UNPROVEN


@pytest.mark.parametrize(
    ("champion", "challenger", "se", "status", "said"),
    [
        (1.00, 1.02, 0.01, Status.OK, "proven within 0.90 to 1.10"),
        (1.00, 1.02, 0.10, Status.UNPROVEN, "not proven within 0.90 to 1.10"),
        (1.00, 1.08, 0.01, Status.HARM, "proven off by more than 5%"),
        (1.00, 0.90, 0.01, Status.HARM, "proven off by more than 5%"),
        (1.15, 1.08, 0.01, Status.OK, "the champion's are 1.150"),
        (1.20, 1.12, 0.01, Status.UNPROVEN, "not proven within 0.90 to 1.10"),
        (None, 1.20, 0.01, Status.UNPROVEN, "not proven within 0.90 to 1.10"),
        (1.00, None, 0.01, Status.UNPROVEN, "Predicted / actual clicks could not be compared"),
    ],
)
def test_predicted_clicks_must_be_proven_near_the_actual_ones(champion, challenger, se, status, said):
    found = calibration(comparison(calibration=metric("calibration", champion, challenger, se)), KNOBS)
    assert found.status is status
    assert said in found.sentence


def test_a_budget_asks_only_when_it_is_set_and_not_measured_is_not_met():
    tight = KNOBS.model_copy(update={"max_latency_p99_milliseconds": 20.0, "max_size_megabytes": 5.0})
    fast = comparison(costs=Costs(latency_p99_milliseconds=12.0, size_megabytes=9.0))
    assert latency(fast, KNOBS) is None
    assert size(fast, KNOBS) is None
    assert latency(comparison(), tight).status is Status.UNPROVEN
    assert latency(comparison(), tight).sentence == (
        "The p99 latency of a request of 100 candidates was not measured; the budget is 20 ms."
    )
    assert latency(fast, tight).status is Status.OK
    assert size(fast, tight).status is Status.HARM
    assert size(fast, tight).sentence == "The bundle size is 9 MB of a budget of 5."


def test_a_challenger_that_does_not_serve_is_harm_and_one_that_nobody_asked_is_not_fine():
    assert serving(comparison(), KNOBS).status is Status.OK
    assert serving(comparison(), KNOBS).sentence == "Version 2 answered as in training."
    broken = ServingCheck(passed=False, reason="Version 2 does not load in a clean process: no torch.")
    found = serving(comparison(serving=broken), KNOBS)
    assert (found.status, found.sentence) == (Status.HARM, broken.reason)
    unasked = serving(comparison(serving=None), KNOBS)
    assert unasked.status is Status.UNPROVEN
    assert "was not asked through MLflow in a clean process" in unasked.sentence


def test_the_costs_of_a_comparison_are_those_of_its_serving_check():
    scored = random_scored(500, users=30, items=30)
    assert measured(scored).costs == SERVES.costs
    assert measured(scored, serving=None).costs == Costs()


def part(name, auc=0.70, loss=0.40, se=0.001, **changes):
    fields = {
        "name": name,
        "rows": 5_000,
        "positives": 1_000,
        "users": 300,
        "items": 200,
        "auc": metric("auc", 0.70, auc, se),
        "log_loss": metric("log_loss", 0.40, loss, se * 0.4),
    }
    return SliceComparison(**(fields | changes))


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([part("a"), part("b", auc=0.71)], Status.OK, "None of 2 slices is proven worse."),
        ([part("a"), part("b", auc=0.69)], Status.HARM, "Proven worse than the margin in b (AUC -0.0100)."),
        ([part("a"), part("b", auc=0.696)], Status.UNPROVEN, "by how much is not clear, in b (AUC -0.0040)."),
        ([part("a"), part("b", loss=0.42)], Status.HARM, "in b (log loss +5.00%)."),
        ([part("a"), part("b", auc=0.60, positives=49)], Status.OK, "1 more have fewer than 50 clicks"),
        ([part("a"), part("b", auc=0.60, positives=4_951)], Status.OK, "None of 1 slices"),
    ],
)
def test_a_slice_is_blamed_only_when_proven_worse(parts, status, said):
    found = slices(comparison(slices=tuple(parts)), KNOBS)
    assert found.status is status
    assert said in found.sentence


def test_the_slices_say_how_much_harm_the_least_certain_of_them_could_hide():
    found = slices(comparison(slices=(part("a"), part("b", se=0.02))), KNOBS)
    # Four tests share 5 %: 2.25 standard errors (199 degrees of freedom) are blamed, 0.84 more give 80 % power.
    assert found.numbers["log_loss_harm_seen"] == pytest.approx((2.25 + 0.84) * 0.02, rel=0.01)
    assert (
        "The least certain is b: there, a log loss worse by 6.2% would be seen with 80% probability" in found.sentence
    )


def test_an_expected_slice_that_was_not_measured_is_not_fine():
    knobs = GuardrailKnobs(slice_columns=("device",))
    found = slices(comparison(slices=(part("new_users"),)), knobs)
    assert found.status is Status.UNPROVEN
    assert found.sentence == "No slice was measured for cold_items, device."
    whole = (part("new_users"), part("cold_items"), part("device=ios"))
    assert slices(comparison(slices=whole), knobs).status is Status.OK


def test_more_slices_ask_for_more_proof_of_each():
    worse = part("b", auc=0.6975, se=0.001)
    assert slices(comparison(slices=(worse,)), KNOBS).status is Status.UNPROVEN
    many = (worse, *(part(f"slice{number}") for number in range(20)))
    assert slices(comparison(slices=many), KNOBS).status is Status.OK


@settings(deadline=None)
@given(st.lists(st.floats(0, 0.1), min_size=1, max_size=6))
def test_holm_rejects_what_bonferroni_rejects_in_every_family_that_holds_it(p_values):
    families = [family for size in range(1, len(p_values) + 1) for family in combinations(range(len(p_values)), size)]
    expected = [
        all(min(p_values[i] for i in family) <= 0.05 / len(family) for family in families if index in family)
        for index in range(len(p_values))
    ]
    assert holm(np.array(p_values), 0.05).tolist() == expected


def test_without_a_champion_only_the_rules_on_the_challenger_itself_ask():
    found = check(measured(random_scored(5000, users=200, items=100, champion=None)), KNOBS)
    assert [finding.rule for finding in found] == ["score_sanity", "evidence", "calibration", "serving"]


def test_every_rule_answers_a_measured_comparison_with_a_sentence_and_numbers():
    knobs = GuardrailKnobs(slice_names=("new_users",), max_latency_p99_milliseconds=5, max_size_megabytes=5)
    scored = random_scored(20_000, users=500, items=200)
    scored = random_scored(20_000, users=500, items=200, slices={"new_users": scored.users < 90})
    quick = SERVES.model_copy(update={"costs": Costs(latency_p99_milliseconds=1, size_megabytes=1)})
    found = check(measured(scored, serving=quick), knobs)
    assert [finding.rule for finding in found] == [rule.__name__ for rule in GUARDRAILS]
    assert all(finding.status is Status.OK and finding.sentence and finding.numbers for finding in found)


def test_the_worst_of_nothing_is_ok_and_of_several_the_worst():
    def of(*statuses):
        return worst(Finding(rule="r", status=status, sentence="s") for status in statuses)

    assert of() is Status.OK
    assert of(Status.OK, Status.UNPROVEN) is Status.UNPROVEN
    assert of(Status.HARM, Status.OK, Status.UNPROVEN) is Status.HARM
