"""Monitoring and arbiter together, by simulation: quiet when nothing happens, and not silent when something does.

``python -m pytest -m slow tests/ranking/test_monitor_simulation.py`` runs many seeds; every number is
reproducible by its seed.
"""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pytest

from ranking.data_quality.checks import Health, Quality
from ranking.levels import Level
from ranking.measurements import Estimate
from ranking.performance import Baseline, Performance, PerformanceKnobs, judge
from ranking.triggers import Memory, Outcome, Signals, TriggerKnobs, arbitrate, settle
from ranking.triggers.memory import Watch
from tests.ranking.monitor_world import START, Day, FeedWorld, Monitored, window

SMALL = {"rows": 2_000, "users": 1_500}


def since(first: int, change: Callable[[Day], Day]) -> Callable[[int, Day], Day]:
    """A fault that begins on a day and stays."""
    return lambda number, day: change(dict(day)) if number >= first else day


def stepped(day: Day) -> Day:
    """The world changes for good: six features move by more than a standard deviation."""
    return day | {f"number{place}": day[f"number{place}"] + 1.5 for place in range(6)}


def nulled(day: Day) -> Day:
    return day | {"number20": np.full(len(day["time"]), np.nan)}


def copied(day: Day) -> Day:
    """A join that went wrong: one feature holds another's values."""
    return day | {"number21": day["number20"]}


def delayed(day: Day) -> Day:
    """A feature whose last hours have not been computed yet when the window is read."""
    rows = len(day["time"])
    return day | {"number20": np.where(np.arange(rows) > 0.7 * rows, np.nan, day["number20"])}


def delivered_twice(day: Day) -> Day:
    return {
        name: pa.concat_arrays([column, column]) if isinstance(column, pa.Array) else np.concatenate((column, column))
        for name, column in day.items()
    }


def every_decision_is_explained(ran: Monitored) -> bool:
    """One decision or non-decision a day, each with the words of every trigger."""
    return len(ran.decisions) == ran.days and all(
        len(decided.answers) == 6 and decided.reason.startswith(("Retrain, by ", "No retraining"))
        for decided in ran.decisions
    )


def test_ninety_stable_days_of_forty_features_retrain_at_most_once():
    ran = Monitored(FeedWorld(seed=0, **SMALL)).run()
    assert len(ran.retrained) <= 1
    assert ran.incidents == []
    assert every_decision_is_explained(ran)
    assert "of 41 columns drifted" in ran.decisions[-1].reason


def test_a_lasting_step_is_retrained_once_per_cool_down():
    ran = Monitored(FeedWorld(seed=0, fault=since(33, stepped), **SMALL), days=30).run()
    assert ran.retrained[0] == 6, "the second window after the step"
    assert [later - earlier for earlier, later in pairwise(ran.retrained)] == [3, 5, 8]
    assert "drift of 6 of 41 columns in the first window; needs a second in a row" in ran.decisions[5].reason
    assert ran.decisions[6].reason.startswith("Retrain, by drift: drift of 6 of 41 columns in 2 windows in a row")
    assert ran.incidents == []
    assert every_decision_is_explained(ran)


def test_a_lasting_step_whose_retraining_is_promoted_is_retrained_once():
    ran = Monitored(FeedWorld(seed=0, fault=since(33, stepped), **SMALL), days=15, promotes=True).run()
    assert ran.retrained == [6]


def test_a_slow_decay_is_found():
    ran = Monitored(FeedWorld(seed=0, loss=0.015, **SMALL), days=35).run()
    first = ran.decisions[ran.retrained[0]]
    assert first.trigger == "performance"
    assert "since promotion (99.7% interval" in first.reason
    assert "and proven" in first.reason


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (nulled, "Values are missing: number20 is null in 100.0% (reference 0.0%)"),
        (copied, "Copied: number21 equals number20 in every row."),
        (delayed, "(reference 0.0%) and has no value in the last"),
        (delivered_twice, "of the rows repeat another's user, item, time"),
    ],
)
def test_a_fault_of_the_data_is_an_incident_and_no_retraining(fault, said):
    ran = Monitored(FeedWorld(seed=0, fault=since(31, fault), **SMALL), days=10).run()
    assert ran.retrained == []
    assert len(ran.incidents) == 7
    assert all(said in sentence for sentence in ran.incidents)
    assert all("Data incident: " in decided.reason for decided in ran.decisions[3:])
    assert every_decision_is_explained(ran)


def yearly_retrainings(mean_error: float, years: int, knobs: TriggerKnobs) -> float:
    """False retrainings by performance per year of daily checks of an unchanged champion, none promoted.

    Days are independent; the value at promotion has the same error as the mean of three days.
    """
    rng = np.random.default_rng(0)
    baseline = Baseline(champion="1", auc=Estimate(value=0.7, se=mean_error), gauc=None, log_loss=None)
    se = mean_error * 2**0.5
    reach = NormalDist().inv_cdf(0.5 + PerformanceKnobs().confidence_level / 2) * se
    started = 0
    for _ in range(years):
        daily = rng.normal(0, mean_error * 3**0.5, 367)
        changes = np.convolve(daily, np.ones(3) / 3, "valid") - rng.normal(0, mean_error)
        memory = Memory()
        for number, change in enumerate(changes.tolist()):
            auc = Estimate(value=change, se=se, low=change - reach, high=change + reach)
            now = window(number, number + 1).end
            decided, memory = arbitrate(_only_performance(number, auc, baseline), memory, knobs, now)
            if decided.flight is not None:
                started += 1
                memory = settle(memory, Outcome(key=decided.flight.key, result="not_promoted", at=now))
    return started / years


def _only_performance(number: int, auc: Estimate, baseline: Baseline) -> Signals:
    day = window(number, number + 1)
    level, sentence = judge(auc, baseline, PerformanceKnobs())
    return Signals(
        champion="1",
        window=day,
        quality=Quality(window=day, rows=1, checks=(), health=Health.OK, sentence="All 0 checks are ok."),
        performance=Performance(champion="1", window=day, days=(), auc=auc, level=level, sentence=sentence),
    )


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.002, 0.004, 0.009])
def test_an_unchanged_champion_is_hardly_ever_retrained_whatever_the_size_of_the_feed(error):
    assert yearly_retrainings(error, 300, TriggerKnobs()) <= 0.2


@pytest.mark.slow
def test_one_check_alone_would_retrain_more_often():
    once = yearly_retrainings(0.004, 300, TriggerKnobs(performance_windows=1))
    assert once > 1.5 * yearly_retrainings(0.004, 300, TriggerKnobs())


@pytest.mark.slow
def test_of_many_stable_worlds_none_retrains_twice_and_few_once():
    found = [len(Monitored(FeedWorld(seed=seed, **SMALL)).run().retrained) for seed in range(500, 540)]
    assert max(found) <= 1, found
    assert sum(found) <= 5, found


@pytest.mark.slow
def test_in_many_worlds_a_step_is_found_on_its_second_day_and_a_decay_within_weeks():
    steps, decays = [], []
    for seed in range(200, 220):
        steps.append(Monitored(FeedWorld(seed=seed, fault=since(33, stepped), **SMALL), days=9).run().retrained)
        decays.append(Monitored(FeedWorld(seed=seed, loss=0.012, **SMALL), days=45).run().retrained)
    assert sum(found[:1] == [6] for found in steps) >= 19, steps
    assert sum(bool(found) for found in decays) >= 18, decays


@pytest.mark.slow
@pytest.mark.parametrize("fault", [nulled, copied, delayed, delivered_twice])
def test_in_many_worlds_no_fault_of_the_data_is_learnt_from(fault):
    for seed in range(300, 315):
        ran = Monitored(FeedWorld(seed=seed, fault=since(30, fault), **SMALL), days=8).run()
        assert ran.retrained == []
        assert len(ran.incidents) == 6


def test_a_level_that_was_not_measured_never_ends_an_alarm():
    watch = Watch(active=True, streak=2, last_end=START, level=Level.ALARM)
    assert watch.after(None, START + timedelta(days=1), 2, timedelta(hours=36)).active
    assert not watch.after(Level.CALM, START + timedelta(days=1), 2, timedelta(hours=36)).active
