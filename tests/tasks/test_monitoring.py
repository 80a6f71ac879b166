"""A champion under watch on real small logs: what is measured, what is decided, and that all of it is on record."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Failed

from ranking.bins import ColumnKind
from ranking.data_quality.checks import Health
from ranking.errors import StorageError, UnknownModel
from ranking.levels import Level
from ranking.monitoring import SCORE, last_day, matured_days
from tasks import arbiter
from tasks.adapters.monitor_store import MonitorStore
from tasks.drift_report import write_drift_report
from tasks.frozen import PLACE, champion_reference
from tests.tasks.watched_feed import DAY, FIRST, Fault, Feed, doubled, nulled, open_feed

MONDAY = datetime(2026, 3, 3, 3, tzinfo=UTC)
"""A check at 3 a.m.: it looks at the whole day before."""

CHANGE = datetime(2026, 3, 3, tzinfo=UTC)
"""From here on the feed may be another one: the check of MONDAY does not see it, that of the next day does."""


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return open_feed(tmp_path)


@pytest.fixture
def _listened() -> Iterator[None]:
    """As if a server were there; nothing asks it."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield


def store_of(feed: Feed) -> MonitorStore:
    return MonitorStore(feed.settings.workspace, feed.settings.registry.model_name)


def test_the_modules_of_a_check_load_no_torch_and_no_mlflow() -> None:
    code = "import flows.monitor, sys; print([m for m in ('torch', 'mlflow', 'lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_calm_day_measures_everything_decides_nothing_and_says_why(feed: Feed) -> None:
    found = feed.check(MONDAY)
    assert found.quality.health is Health.OK, found.quality.sentence
    assert found.drift.level is Level.CALM
    assert {column.name: column.kind for column in found.drift.columns} == {
        "age": ColumnKind.NUMERIC,
        "device": ColumnKind.CATEGORICAL,
        "click": ColumnKind.LABEL,
        SCORE: ColumnKind.SCORE,
    }
    assert all(column.psi is not None for column in found.drift.columns)
    assert found.scores.performance is not None
    assert found.scores.performance.level is Level.CALM, found.scores.performance.sentence
    assert [day.window.start.day for day in found.scores.performance.days] == [28, 1, 2]
    assert found.reason.startswith(
        "No retraining. manual: nobody asked; schedule: the schedule is not due; drift: 0 of 4"
    )
    assert store_of(feed).decisions(9) == (found.weighed.decision,)


def test_labels_that_are_not_final_count_as_not_known(feed: Feed) -> None:
    at_midnight = MONDAY.replace(hour=0)
    young, old = feed.check(at_midnight), feed.check(MONDAY)
    assert young.scores.performance is not None
    assert [day.window.start.day for day in young.scores.performance.days] == [27, 28, 1]
    assert matured_days(last_day(MONDAY), at_midnight, 2.0, 1)[0].end == last_day(MONDAY).start
    assert old.quality.window == young.quality.window


def test_the_reference_is_frozen_once_and_kept_beside_the_model(feed: Feed) -> None:
    first = feed.check(MONDAY).frozen
    assert feed.shop.registry.attached(feed.champion, PLACE) == first.model_dump_json().encode()
    assert first.features.counts.window == feed.champion.learnt
    assert first.features.days == 28
    assert first.scores.counts.rows == pytest.approx(3_000, rel=0.05)
    # What the log says later of those days changes nothing.
    (feed.folder / "log" / "day-003.parquet").unlink()
    assert feed.check(MONDAY).frozen == first


def test_a_champion_that_was_never_compared_cannot_be_watched(feed: Feed) -> None:
    foreign = feed.shop.register(2)
    settings = feed.settings
    with pytest.raises(UnknownModel, match="feedloop has never compared it"):
        champion_reference.fn(
            champion=foreign, data=settings.data, knobs=settings.drift, maturity_hours=2, now=MONDAY, **settings.store
        )


@pytest.mark.usefixtures("_listened")
def test_drift_needs_two_windows_and_then_retrains_with_its_reason(feed: Feed) -> None:
    feed.since = CHANGE
    calm, first, second = (feed.check(MONDAY + days * DAY) for days in range(3))
    assert calm.drift.level is Level.CALM
    assert first.drift.level is Level.ALARM
    assert "age" in {column.name for column in first.drift.drifted}
    assert first.weighed.decision.decision == "wait"
    assert "columns in the first window; needs a second in a row" in first.reason
    assert second.reason.startswith("Retrain, by drift: drift of ")
    assert "in 2 windows in a row" in second.reason
    assert second.weighed.flight is not None
    assert (second.weighed.flight.trigger, second.weighed.reason) == ("drift", second.reason)
    # The same window again counts once, and what nobody has started yet is told again with its first reason.
    again = feed.check(MONDAY + 2 * DAY + timedelta(hours=1))
    assert again.weighed.decision.decision == "wait"
    assert "is on its way since" in again.reason
    assert (again.weighed.flight, again.weighed.reason) == (second.weighed.flight, second.reason)
    assert [decided.decision for decided in store_of(feed).decisions(9)] == ["wait", "wait", "retrain", "wait"]


@pytest.mark.usefixtures("_listened")
def test_rows_that_arrive_late_are_an_incident_once_the_log_says_when_they_arrived(feed: Feed) -> None:
    def arriving(day: pd.DataFrame) -> pd.DataFrame:
        late = (day["timestamp"] >= CHANGE) & (np.arange(len(day)) % 5 < 2)
        minutes = np.where(late, 12 * 60, 5).astype("timedelta64[m]")
        return day.assign(arrived=day["timestamp"] + minutes)

    toml = feed.config.read_text()
    feed.config.write_text(toml.replace("[data.columns]", '[data.columns]\ndelivered = "arrived"'))
    feed.fault, feed.since = arriving, FIRST
    calm, faulty = feed.check(MONDAY), feed.check(MONDAY + DAY)
    assert calm.quality.health is Health.OK, calm.quality.sentence
    assert calm.frozen.features.layout.arrival == "arrived"
    assert faulty.quality.blocks
    assert "% of the rows came more than 6 h late; 0.0% did in the reference." in faulty.quality.sentence
    assert faulty.weighed.decision.decision == "wait"


@pytest.mark.parametrize(
    ("fault", "says"), [(nulled, "age is null in 100.0%"), (doubled, "of the rows repeat another's")]
)
@pytest.mark.usefixtures("_listened")
def test_an_incident_is_said_and_vetoes_whatever_it_looks_like(feed: Feed, fault: Fault, says: str) -> None:
    feed.fault, feed.since = fault, CHANGE
    for days in (1, 2):
        found = feed.check(MONDAY + days * DAY)
        assert found.quality.blocks
        assert says in found.quality.sentence
        assert found.scores.note == "the data have an incident"
        assert found.weighed.decision.decision == "wait"
        assert f"Data incident: {found.quality.sentence}" in found.reason
    scheduled = take_off(feed, "run", MONDAY + 2 * DAY, trigger="schedule")
    assert scheduled is not None
    assert (
        "schedule asks (the schedule is due), but the window until 2026-03-05 00:00 UTC had a data incident"
        in scheduled
    )
    assert store_of(feed).decisions(1)[0].refusals[0].veto == "data_incident"


@pytest.mark.usefixtures("_listened")
def test_a_champion_that_lost_its_auc_is_retrained_for_performance(tmp_path: Path) -> None:
    feed = open_feed(tmp_path, auc=0.6)
    first, second = (feed.check(MONDAY + days * DAY) for days in range(2))
    for found in (first, second):
        assert found.scores.performance is not None
        assert found.scores.performance.level is Level.ALARM
    assert first.weighed.decision.decision == "wait"
    assert "second in a row" in first.reason
    assert second.reason.startswith("Retrain, by performance: ")
    assert "a drop of at least 0.0100, and proven" in second.reason


def test_without_a_server_nothing_waits_for_a_retraining_that_nobody_starts(feed: Feed) -> None:
    feed.since = CHANGE
    with temporary_settings({PREFECT_API_URL: None}):
        feed.check(MONDAY + DAY)
        found = feed.check(MONDAY + 2 * DAY)
    assert found.weighed.decision.decision == "retrain"
    assert "But no Prefect server listens" in found.reason
    assert found.weighed.flight is None
    memory = store_of(feed).memory()
    assert (memory.flight, memory.starts) == (None, ())


def take_off(feed: Feed, run: str, now: datetime, *, trigger: str = "drift", flight: str | None = None) -> str | None:
    """As a run of the retraining asks whether it may begin."""
    settings = feed.settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arbiter.runtime.flow_run, "id", run, raising=False)
        return arbiter.take_off.fn(trigger=trigger, flight=flight, knobs=settings.triggers, now=now, **settings.store)


@pytest.mark.usefixtures("_listened")
def test_one_run_takes_up_a_decision_and_its_end_begins_the_cool_down(feed: Feed) -> None:
    feed.since = CHANGE
    feed.check(MONDAY + DAY)
    now = MONDAY + 2 * DAY
    flight = feed.check(now).weighed.flight
    assert flight is not None
    assert take_off(feed, "first", now, flight=flight.key) is None
    assert take_off(feed, "first", now, flight=flight.key) is None, "the same run, started again"
    assert take_off(feed, "second", now, flight=flight.key) == f"Run first has taken up {flight.key} already."
    assert feed.check(now + timedelta(hours=1)).weighed.flight is None, "it is not told again"

    ended = {"flight": flight.key, "trigger": "drift", "config": str(feed.config), "now": (now + DAY / 4).isoformat()}
    run = FlowRun.model_construct(id="first", parameters=ended)
    arbiter.land(None, run, Completed())
    after = feed.check(now + DAY / 2)
    assert "cool-down of 48 h" in after.reason
    assert "1 in a row not promoted" in after.reason
    assert store_of(feed).memory().flight is None


@pytest.mark.usefixtures("_listened")
def test_a_schedule_asks_the_arbiter_and_a_failed_run_lands_too(feed: Feed) -> None:
    assert take_off(feed, "sunday", MONDAY, trigger="schedule") is None
    assert "retraining retrain-20260303T030000Z-1 (schedule) is on its way" in (
        take_off(feed, "another", MONDAY, trigger="schedule") or ""
    )
    ended = {"trigger": "schedule", "config": str(feed.config), "now": MONDAY.isoformat()}
    arbiter.land(None, FlowRun.model_construct(id="sunday", parameters=ended), Failed())
    told = take_off(feed, "next", MONDAY + DAY / 4, trigger="schedule")
    assert told is not None
    assert "the last retraining ended at 2026-03-03 03:00 UTC" in told
    assert take_off(feed, "by hand", MONDAY, trigger="manual") is None


def test_two_checks_at_once_do_not_both_decide(feed: Feed) -> None:
    decided = feed.check(MONDAY).weighed.decision
    store = store_of(feed)
    before = store.memory()
    feed.check(MONDAY + DAY)
    with pytest.raises(StorageError, match="Another check has decided meanwhile"):
        store.keep(decided, before, before)


def test_the_report_tells_every_check_column_day_and_answer(feed: Feed) -> None:
    found = feed.check(MONDAY)
    report = write_drift_report.fn(
        model="feed_ranker",
        frozen=found.frozen,
        quality=found.quality,
        drift=found.drift,
        scores=found.scores,
        weighed=found.weighed,
        workspace=feed.settings.workspace,
    )
    text = Path(report.markdown_uri).read_text()
    assert report.title == "feed_ranker v1 on 2026-03-02: wait"
    for words in (found.reason, found.drift.sentence, f"| {SCORE} (critical) |", "| 2026-03-02 |", "- **ok** volume: "):
        assert words in text
    assert Path(report.picture_uri).read_bytes().startswith(b"\x89PNG")
