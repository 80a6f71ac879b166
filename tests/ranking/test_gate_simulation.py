"""The gate's promises, by simulation: false promotions, coverage, power, slices.

``python -m pytest -m slow tests/ranking/test_gate_simulation.py`` runs them all; every number is
reproducible by its seed.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from ranking import influence
from ranking.clusters import Clusters, InfluenceSums, estimate
from ranking.comparison import Scored
from ranking.decision import Decision
from ranking.findings import Status
from ranking.gate_check import check_gate
from ranking.gate_world import HoldoutShape, Shares, SliceShape, scored, shape_of, world
from ranking.guardrails.slices import slices
from ranking.measurements import Estimate, MetricComparison
from ranking.metrics import log_loss
from ranking.verdict import GateKnobs, decide
from tests.ranking.gate_values import comparison, measured, random_scored

EXPLORED = GateKnobs(exploration_holdout=True)
CLUSTERED = {"signal": Shares(user=0.3, item=0.3), "change": Shares(user=0.3, item=0.3)}
HOLDOUTS = {
    5_000: HoldoutShape(rows=5_000, users=400, items=200, click_rate=0.15, auc=0.72, **CLUSTERED),
    50_000: HoldoutShape(rows=50_000, users=2_500, items=800, click_rate=0.15, auc=0.72, **CLUSTERED),
    500_000: HoldoutShape(rows=500_000, users=20_000, items=2_000, click_rate=0.15, auc=0.72, **CLUSTERED),
}
REPETITIONS = {5_000: 2_000, 50_000: 1_000, 500_000: 400}


def auc_gain(drawn: Scored) -> Estimate:
    """The AUC gain as ``compare`` measures it, without the other metrics."""
    rows = drawn.checked()
    new, old = (influence.auc(rows.labels, scores) for scores in (rows.challenger, rows.champion))
    clusters = Clusters(rows.clusters.users, rows.clusters.items)
    sums = InfluenceSums.of(new.influence - old.influence, clusters, rows.labels)
    return estimate(new.value - old.value, sums.variance(), min(sums.user.clusters, sums.item.clusters), 0.95)


@cache
def equal_models(rows: int) -> list[Estimate]:
    """AUC gains of challengers that are as good as their champions."""
    found = world(HOLDOUTS[rows], 0.0, seed=1)
    return [auc_gain(scored(found, seed, challenger_is_better=True)) for seed in range(REPETITIONS[rows])]


def monte_carlo_error(rate: float, repetitions: int) -> float:
    """Two standard errors of a simulated rate."""
    return 2 * np.sqrt(rate * (1 - rate) / repetitions)


def false_promotions(rows: int) -> float:
    """Share of equal challengers promoted by the AUC rule alone: no guardrail to help."""
    shape = HOLDOUTS[rows]
    promoted = 0
    for gain in equal_models(rows):
        auc = MetricComparison(name="auc", higher_is_better=True, champion=gain, challenger=gain, difference=gain)
        judged = comparison(auc=auc, rows=rows, users=shape.users, items=shape.items)
        promoted += decide(judged, EXPLORED, rules=()).decision is Decision.PROMOTE
    return promoted / REPETITIONS[rows]


def coverage(rows: int) -> float:
    """Share of the 95 % intervals that hold the true gain of equal models, 0."""
    return float(np.mean([gain.low <= 0 <= gain.high for gain in equal_models(rows)]))


@pytest.mark.slow
@pytest.mark.parametrize("rows", HOLDOUTS)
def test_equal_models_are_hardly_ever_promoted(rows):
    assert false_promotions(rows) <= 0.025 + monte_carlo_error(0.025, REPETITIONS[rows])


@pytest.mark.slow
@pytest.mark.parametrize("rows", HOLDOUTS)
def test_the_interval_of_the_auc_gain_covers_the_truth_as_often_as_it_says(rows):
    assert 0.93 <= coverage(rows) <= 0.97


def power_at_twice_the_detectable_effect(repetitions: int) -> float:
    """Share promoted, with all guardrails, of challengers better by twice the detectable effect."""
    shape = HOLDOUTS[50_000]
    first = decide(measured(scored(world(shape, 0.0, seed=2), 0, challenger_is_better=True)), EXPLORED)
    found = world(shape, 2 * first.minimum_detectable_effect, seed=2)
    decisions = [
        decide(measured(scored(found, seed, challenger_is_better=True), report=False), EXPLORED).decision
        for seed in range(repetitions)
    ]
    return decisions.count(Decision.PROMOTE) / repetitions


@pytest.mark.slow
def test_twice_the_detectable_effect_is_promoted():
    assert power_at_twice_the_detectable_effect(200) >= 0.90


def harmed_slice(repetitions: int) -> tuple[float, list[Decision], list[str]]:
    """Challengers that gain 0.02 AUC overall but cost a tenth of the users 5 % of log loss."""
    shape = HOLDOUTS[50_000].model_copy(update={"rows": 150_000, "users": 7_500})
    found = world(shape, 0.02, seed=3)
    shift = _shift_that_costs(0.05, [scored(found, 1_000 + seed, challenger_is_better=True) for seed in range(10)])
    changes, decisions, reasons = [], [], []
    for seed in range(repetitions):
        drawn = _shifted(scored(found, seed, challenger_is_better=True), shift)
        changes.append(_slice_loss(drawn))
        verdict = decide(measured(drawn, report=False), EXPLORED)
        decisions.append(verdict.decision)
        reasons.append(verdict.reason)
    return float(np.mean(changes)), decisions, reasons


def _shifted(drawn: Scored, shift: float) -> Scored:
    """The challenger's logits moved by ``shift`` for the new users."""
    logits = np.log(drawn.challenger / (1 - drawn.challenger)) + shift * drawn.slices["new_users"]
    return replace(drawn, challenger=1 / (1 + np.exp(-logits)))


def _slice_loss(drawn: Scored) -> float:
    """Relative change of log loss among the new users."""
    at = drawn.slices["new_users"]
    return log_loss(drawn.labels[at], drawn.challenger[at]) / log_loss(drawn.labels[at], drawn.champion[at]) - 1


def _shift_that_costs(change: float, draws: list[Scored]) -> float:
    """The shift at which the draws' mean cost is ``change``."""
    shifts = np.linspace(0.2, 1.2, 11)
    costs = [np.mean([_slice_loss(_shifted(drawn, shift)) for drawn in draws]) for shift in shifts]
    return float(np.interp(change, costs, shifts))


@pytest.mark.slow
def test_harm_of_5_percent_log_loss_in_one_slice_is_never_promoted():
    change, decisions, reasons = harmed_slice(200)
    assert change == pytest.approx(0.05, abs=0.005)
    assert Decision.PROMOTE not in decisions
    assert all("new_users (log loss" in reason for reason in reasons)


def blocked_by_null_slices(repetitions: int) -> float:
    """Share of equal challengers that the slice rule alone would hold back with 20 slices."""
    shape = HOLDOUTS[50_000].model_copy(update={"slices": {}})
    found = world(shape, 0.0, seed=4)
    knobs = GateKnobs(slice_names=())
    blocked = 0
    for seed in range(repetitions):
        drawn = scored(found, seed, challenger_is_better=True)
        part = np.random.default_rng(seed).integers(0, 20, shape.users)[drawn.users]
        masks = {f"slice={number}": part == number for number in range(20)}
        blocked += slices(measured(replace(drawn, slices=masks), report=False), knobs).status is not Status.OK
    return blocked / repetitions


@pytest.mark.slow
def test_twenty_slices_without_harm_hardly_ever_block():
    assert blocked_by_null_slices(500) <= 0.06


def test_the_simulated_world_has_the_auc_and_gap_that_were_asked_for():
    shape = HoldoutShape(rows=200_000, users=20_000, items=10_000, click_rate=0.1, auc=0.7, item_spread=0.5)
    found = measured(scored(world(shape, 0.03, seed=5), 1, challenger_is_better=True), report=False)
    assert found.auc.champion.value == pytest.approx(0.70, abs=0.01)
    assert found.auc.difference.value == pytest.approx(0.03, abs=0.004)
    assert found.positives / found.rows == pytest.approx(0.1, abs=0.01)
    assert found.calibration.challenger.value == pytest.approx(1.0, abs=0.05)


def test_a_holdouts_shape_is_recovered_from_its_rows():
    shape = HoldoutShape(rows=100_000, users=2_000, items=1_000, click_rate=0.2, auc=0.72)
    found = shape_of(scored(world(shape, 0.0, seed=6), 1, challenger_is_better=True))
    assert (found.rows, found.users) == (100_000, pytest.approx(2_000, rel=0.02))
    assert found.click_rate == pytest.approx(0.2, abs=0.02)
    assert found.auc == pytest.approx(0.72, abs=0.02)
    assert found.change.user == pytest.approx(0.1, abs=0.03)
    assert found.change.item == pytest.approx(0.2, abs=0.05)
    new, cold = found.slices["new_users"], found.slices["cold_items"]
    assert (new.of, new.share) == ("users", pytest.approx(0.1, abs=0.03))
    assert (cold.of, cold.share) == ("items", pytest.approx(0.1, abs=0.06))


def test_values_of_one_column_never_overlap_and_belong_to_whom_they_belonged_to_in_the_log():
    parts = {
        "device=phone": SliceShape(share=0.5),
        "device=tv": SliceShape(share=0.3),
        "hour=late": SliceShape(share=0.2, of="rows"),
    }
    parts["category=news"] = SliceShape(share=0.4, of="items")
    shape = HoldoutShape(rows=60_000, users=3_000, items=900, click_rate=0.2, auc=0.72, slices=parts)
    drawn = scored(world(shape, 0.0, seed=7), 1, challenger_is_better=True)
    assert not (drawn.slices["device=phone"] & drawn.slices["device=tv"]).any()
    found = shape_of(drawn).slices
    assert {name: part.of for name, part in found.items()} == {name: part.of for name, part in parts.items()}
    for name, part in parts.items():
        assert found[name].share == pytest.approx(part.share, abs=0.08)


def test_a_gate_check_asks_the_configured_slice_columns_and_blocks_when_none_of_their_values_is_large_enough():
    parts = {"new_users": SliceShape(share=0.1), "cold_items": SliceShape(share=0.1, of="items")}
    shape = HoldoutShape(rows=30_000, users=1_500, items=600, click_rate=0.2, auc=0.7, slices=parts)
    gate = EXPLORED.model_copy(update={"slice_columns": ("device",), "min_auc_improvement": 0.02})
    assert check_gate(shape, gate, repetitions=3, seed=1).power == 0.0
    phones = shape.model_copy(update={"slices": parts | {"device=phone": SliceShape(share=0.6)}})
    assert check_gate(phones, gate, repetitions=3, seed=1).power == 1.0


def test_a_gate_check_repeats_and_tells_the_error_rates_in_words():
    shape = shape_of(random_scored(2_000, users=100, items=50))
    checked = check_gate(shape, EXPLORED, repetitions=4, seed=1)
    assert checked == check_gate(shape, EXPLORED, repetitions=4, seed=1)
    names = [scenario.name for scenario in checked.scenarios]
    assert names == ["equal", "slightly better", "clearly better", "harmful"]
    assert checked.harmful_promotion_rate == 0.0
    assert checked.not_simulated == ("serving", "latency", "size")
    assert checked.scenarios[3].mean_gain < 0 < checked.scenarios[2].mean_gain
    assert checked.scenarios[3].sentence.startswith("harmful (-0.0100 AUC): 0.0% promoted")
