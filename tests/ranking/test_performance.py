"""The champion of late against itself at promotion: the numbers, the errors, and when nothing can be said."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from ranking import metrics
from ranking.clusters import Clusters, InfluenceSums
from ranking.errors import ComparisonError, ImmatureLabels
from ranking.influence import auc
from ranking.levels import Level
from ranking.measurements import Estimate
from ranking.performance import Baseline, MaturedDay, Performance, PerformanceKnobs, judge, measure_performance
from tests.ranking.gate_values import START, comparison, days

KNOBS = PerformanceKnobs()
NOW = START + timedelta(days=20)
BASELINE = Baseline(
    champion="7",
    auc=Estimate(value=0.72, se=0.002),
    gauc=Estimate(value=0.68, se=0.003),
    log_loss=Estimate(value=0.45, se=0.001),
)


def matured(number: int, rows: int = 8_000, signal: float = 1.0, seed: int = 0, users: int = 600) -> MaturedDay:
    """A day of returning users; a weaker signal makes the champion worse."""
    rng = np.random.default_rng([seed, number])
    truth = rng.normal(size=rows)
    return MaturedDay(
        window=days(number, number + 1),
        labels=rng.random(rows) < 1 / (1 + np.exp(1.4 - truth)),
        scores=1 / (1 + np.exp(1.4 - signal * truth - 0.6 * rng.normal(size=rows))),
        users=rng.integers(0, users, rows),
        items=rng.integers(0, 300, rows),
    )


def measure(recent: list[MaturedDay], baseline: Baseline = BASELINE, **changes: object) -> Performance:
    fields = {"knobs": KNOBS, "now": NOW, "label_maturity_hours": 24.0} | changes
    return measure_performance(recent, baseline, **fields)


def test_the_numbers_are_those_of_scikit_learn_and_the_mean_is_of_the_last_days():
    week = [matured(number) for number in range(7)]
    found = measure(week)
    areas = [roc_auc_score(day.labels, day.scores) for day in week[-3:]]
    losses = [log_loss(day.labels, day.scores) for day in week[-3:]]
    assert [day.auc for day in found.days] == pytest.approx(areas)
    assert [day.log_loss for day in found.days] == pytest.approx(losses)
    assert [day.gauc for day in found.days] == [metrics.gauc(day.labels, day.scores, day.users) for day in week[-3:]]
    assert found.auc.value == pytest.approx(np.mean(areas) - 0.72)
    assert found.log_loss.value == pytest.approx(np.mean(losses) - 0.45)
    assert found.window == days(4, 7)
    assert Performance.model_validate_json(found.model_dump_json()) == found


def test_a_user_who_comes_every_day_is_one_user():
    recent = [matured(number, users=40) for number in range(3)]
    found = measure(recent)
    users, items = (np.concatenate([getattr(day, name) for day in recent]) for name in ("users", "items"))
    psi = np.concatenate([auc(day.labels, day.scores).influence for day in recent]) / 3
    together = InfluenceSums.of(psi, Clusters(users, items), np.concatenate([day.labels for day in recent]))
    assert found.auc.se**2 == pytest.approx(together.variance() + 0.002**2)


def test_days_that_are_copies_of_each_other_teach_no_more_than_one():
    day = matured(0)
    same = [replace(day, window=days(number, number + 1)) for number in range(3)]
    one = InfluenceSums.of(auc(day.labels, day.scores).influence, Clusters(day.users, day.items), day.labels)
    # the two-way variance subtracts single rows, and these are three copies: it stays on the safe side
    assert measure(same).auc.se ** 2 >= one.variance() + 0.002**2 - 1e-12


@pytest.mark.parametrize(
    ("change", "reach", "level", "said"),
    [
        (-0.004, 0.001, Level.CALM, "changed by -0.0040"),
        (-0.005, 0.001, Level.RAISED, "proven, but less than the 0.0100 that is an alarm"),
        (-0.007, 0.008, Level.CALM, "a drop, but not proven"),
        (-0.02, 0.021, Level.CALM, "a drop, but not proven"),
        (-0.01, 0.009, Level.ALARM, "a drop of at least 0.0100, and proven"),
        (0.29 - 0.3, 0.009, Level.ALARM, "and proven"),
        (0.02, 0.001, Level.CALM, "changed by +0.0200"),
    ],
)
def test_the_alarm_needs_a_drop_that_matters_and_that_is_proven(change, reach, level, said):
    found, sentence = judge(Estimate(value=change, se=0.01, low=change - reach, high=change + reach), BASELINE, KNOBS)
    assert found is level
    assert said in sentence
    assert "99.7% interval" in sentence


def test_a_wrong_order_of_the_two_thresholds_silences_no_alarm():
    knobs = PerformanceKnobs(leave_auc_drop=0.3)
    assert judge(Estimate(value=-0.02, se=0.001, low=-0.023, high=-0.017), BASELINE, knobs)[0] is Level.ALARM


def test_a_real_loss_is_an_alarm_and_an_unchanged_champion_is_calm():
    before = np.mean([roc_auc_score(day.labels, day.scores) for day in (matured(number) for number in range(9))])
    baseline = BASELINE.model_copy(update={"auc": Estimate(value=before, se=0.003)})
    recent = range(10, 13)
    assert measure([matured(number) for number in recent], baseline).level is not Level.ALARM
    worse = measure([matured(number, signal=0.4) for number in recent], baseline)
    assert worse.level is Level.ALARM
    assert worse.auc.high < 0
    assert worse.gauc.value < 0
    assert worse.log_loss is not None


def three(**changes: object) -> list[MaturedDay]:
    return [replace(matured(number), **changes) for number in range(3)]


@pytest.mark.parametrize(
    ("recent", "baseline", "said"),
    [
        ([], BASELINE, "0 matured days are known, and 3 are needed"),
        (three()[:2], BASELINE, "2 matured days are known, and 3 are needed"),
        ([matured(0), matured(2), matured(3)], BASELINE, "the days are not whole days in a row"),
        (three(), BASELINE.model_copy(update={"auc": None}), "nobody recorded the AUC of version 7"),
        (three(), BASELINE.model_copy(update={"auc": Estimate(value=0.7)}), "at promotion with its error"),
        (three(exploration=True), BASELINE, "was measured on all impressions, and these days are other ones"),
        (three(labels=np.zeros(8_000, dtype=bool)), BASELINE, "a day has 0 clicks or non-clicks, and 50 of each"),
        (three(users=np.zeros(8_000, dtype=int)), BASELINE, "1 users or items, and 20 of each are needed"),
    ],
)
def test_what_is_not_measured_has_no_level_and_says_why(recent, baseline, said):
    found = measure(recent, baseline)
    assert found.level is None
    assert found.sentence.startswith("Performance was not measured: ")
    assert said in found.sentence


def test_labels_that_are_not_final_are_refused():
    with pytest.raises(ImmatureLabels, match="1 of 3 days end after 2026-01-03 00:00 UTC, the latest at 2026-01-04"):
        measure(three(), now=START + timedelta(days=3))


def test_broken_scores_of_the_champion_are_an_error_and_no_measurement():
    bad = matured(1)
    bad.scores[:4] = np.nan
    with pytest.raises(ComparisonError, match=r"NaN or infinite scores on 4 of 8000 rows of 2026-01-02.*Roll back"):
        measure([matured(0), bad, matured(2)])


def test_the_baseline_is_the_challengers_side_of_the_promotion():
    found = Baseline.of(comparison(exploration=True))
    assert (found.champion, found.auc.value, found.auc.se, found.exploration) == ("2", 0.72, 0.001, True)
