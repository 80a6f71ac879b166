"""The loop that runs by itself, on a real server with a real worker: schedules, checks, events and what they start."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.automations import AUTOMATIONS, register_all
from deployments.definitions import DEPLOYMENTS
from ranking.triggers import Signals
from settings.effects import ScheduleKnobs
from tasks.adapters.monitor_store import Landing, MonitorStore
from tasks.arbiter import weigh
from tests.deployments.team import Team, runs_of
from tests.servers import ROOT, PrefectServer, Program, wait_until
from tests.tasks.watched_feed import DAY, TOML, Feed, with_champion

CHANGE = datetime(2026, 3, 3, tzinfo=UTC)
CHECK = datetime(2026, 3, 4, 3, tzinfo=UTC)
"""The first check that sees the change."""

CHEAP = """
[split]
holdout_days = 2
[training]
max_epochs = 1
"""


@pytest.fixture(scope="module")
def team(team_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Team:
    return Team(tmp_path_factory.mktemp("monitored") / "project", team_server, TOML + CHEAP)


@pytest.fixture(scope="module")
def feed(team: Team) -> Feed:
    assert team.config.exists()
    made = with_champion(team.folder, team.shop)
    made.since = CHANGE
    return made


@pytest.fixture(scope="module")
def deployed(team: Team, feed: Feed) -> dict[str, Any]:
    """What the second of two registrations says."""
    first = team.shell("deploy", "--json")
    assert first.code == 0, first
    again = team.shell("deploy", "--json")
    assert again.code == 0, again
    return again.json


def started_runs(team: Team, deployment: str) -> list[FlowRun]:
    """Runs that somebody or something started; not those that a schedule has planned."""
    return [run for run in runs_of(team, deployment) if not run.auto_scheduled]


def test_registering_twice_leaves_one_schedule_and_one_automation_of_each_kind(
    team: Team, deployed: dict[str, Any]
) -> None:
    assert deployed["automations"] == [row.name for row in AUTOMATIONS]
    with team.server.client() as client:
        for name, cron, parameters in (
            ("retrain/retrain", "0 0 * * 0", {"trigger": "schedule"}),
            ("monitor/monitor", "0 3 * * *", {}),
            ("refresh/refresh", "5 * * * *", {}),
        ):
            found = client.read_deployment_by_name(name)
            (schedule,) = found.schedules
            assert (schedule.schedule.cron, schedule.schedule.timezone) == (cron, "UTC")
            assert (schedule.active, schedule.parameters) == (True, parameters)
            limit = found.global_concurrency_limit
            assert limit is not None
            assert limit.limit == 1
        for row in AUTOMATIONS:
            assert len(client.read_automations_by_name(row.name)) == 1
        assert not client.read_deployment_by_name("rollback/rollback").schedules


@pytest.fixture
def every_minute(
    team_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, team: Team, deployed: dict[str, Any]
) -> Iterator[Team]:
    """Another project, without a champion, whose checks are due every minute; afterwards the first one is back."""
    hasty = Team(tmp_path_factory.mktemp("hasty"), team_server, '[schedules]\nmonitor_cron = "* * * * *"\n')
    hasty.shop  # noqa: B018 (its registry is made)
    assert hasty.shell("deploy", "--json").code == 0
    yield hasty
    assert team.shell("deploy", "--json").code == 0


def test_a_scheduled_check_runs_by_itself(every_minute: Team, team_worker: Program) -> None:
    def ran() -> FlowRun | None:
        runs = runs_of(every_minute, "monitor/monitor")
        return next((run for run in runs if run.auto_scheduled and run.state and run.state.is_final()), None)

    run = wait_until(ran, seconds=240, told=team_worker.log.read_text)
    assert run.state is not None
    assert run.state.name == "Nothing serves", run.state
    assert run.state.message == "There is no champion yet, so nothing was checked."
    assert run.parameters == {"config": str(every_minute.config)}


@pytest.fixture(scope="module")
def drifted(team: Team, feed: Feed, deployed: dict[str, Any], team_worker: Program) -> FlowRun:
    """The retraining that a check by the worker has started: the second that sees the feed drifted."""
    assert feed.check(CHECK).reason.startswith("No retraining.")
    feed.live(CHECK + DAY)
    check = team.start("monitor/monitor", now=(CHECK + DAY).isoformat())
    team.until(check, "Completed", seconds=240)
    started = wait_until(lambda: started_runs(team, "retrain/retrain"), seconds=120, told=team.server.log.read_text)
    return started[0]


def test_a_check_that_finds_drift_starts_one_retraining_that_knows_why(
    team: Team, feed: Feed, drifted: FlowRun
) -> None:
    store = store_of(feed)
    decided = store.decisions(1)[0]
    assert decided.flight is not None
    assert drifted.parameters == {
        "config": str(team.config),
        "trigger": "drift",
        "reason": decided.reason,
        "flight": decided.flight.key,
    }
    assert decided.reason.startswith("Retrain, by drift: drift of ")
    # It trains, compares and lands; the arbiter learns of its end at the next check.
    run = team.until(drifted.id, "Completed", "Rejected", "Refused", seconds=300)
    assert run.state is not None
    assert run.state.name == "Completed", run.state
    with temporary_settings({PREFECT_API_URL: team.server.api}):
        after = feed.check(CHECK + DAY + timedelta(hours=2))
    assert "not promoted: cool-down of 48 h" in after.reason
    assert store.memory().flight is None
    assert len(started_runs(team, "retrain/retrain")) == 1


def test_twenty_events_at_once_start_one_run_which_finds_its_retraining_taken(team: Team, drifted: FlowRun) -> None:
    def event(about: str) -> dict[str, Any]:
        return {
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
            "event": "feedloop.drift.detected",
            "resource": {"prefect.resource.id": f"feedloop.model.feed_ranker.{about}"},
            "payload": {"trigger": "drift", "reason": about, "flight": drifted.parameters["flight"]},
        }

    def reasons() -> list[str]:
        return [run.parameters["reason"] for run in started_runs(team, "retrain/retrain") if run.id != drifted.id]

    # The last one is about something else: when its run is there, the server has seen the twenty.
    events = [*(event("twenty") for _ in range(20)), event("last")]
    with httpx.Client() as client:
        client.post(f"{team.server.api}/events", json=events).raise_for_status()
    wait_until(lambda: "last" in reasons(), told=team.server.log.read_text)
    wait_until(lambda: "twenty" in reasons(), told=team.server.log.read_text)
    assert sorted(reasons()) == ["last", "twenty"]
    team.until(drifted.id, "Completed", seconds=300)
    for run in started_runs(team, "retrain/retrain"):
        if run.id != drifted.id:
            state = team.until(run.id, "Refused", seconds=240).state
            assert state is not None
            assert state.message == f"Run {drifted.id} has taken up {drifted.parameters['flight']} already."


def test_the_absence_of_checks_is_noticed(team: Team, deployed: dict[str, Any]) -> None:
    name = "feedloop: not monitored"
    with team.server.client() as client:
        ids = {row.name: client.read_deployment_by_name(row.full_name).id for row in DEPLOYMENTS}
        register_all(client, "feed_ranker", ScheduleKnobs(absence_hours=12 / 3600), ids)
        automation = client.read_automations_by_name(name)[0].id

    def fired() -> bool:
        wanted = {"filter": {"event": {"name": ["prefect.automation.triggered"]}}}
        found = httpx.post(f"{team.server.api}/events/filter", json=wanted).raise_for_status().json()["events"]
        return any(event["resource"]["prefect.resource.id"] == f"prefect.automation.{automation}" for event in found)

    try:
        wait_until(fired, seconds=120, told=team.server.log.read_text)
    finally:
        assert team.shell("deploy", "--json").code == 0
    with team.server.client() as client:
        (automation_now,) = client.read_automations_by_name(name)
    assert automation_now.trigger.within == timedelta(hours=36)


def test_the_report_of_a_check_is_in_the_ui_and_its_reasons_in_feedloop_status(team: Team, drifted: FlowRun) -> None:
    with team.server.client() as client:
        found = {artifact.key: artifact for artifact in client.read_artifacts()}
    assert found["monitor-feed-ranker-picture"].type == "image"
    text = str(found["monitor-feed-ranker"].data)
    assert drifted.parameters["reason"] in text
    assert "| age | " in text
    told = team.shell("status", "--json")
    assert told.code == 0, told
    assert drifted.parameters["reason"] in [check["reason"] for check in told.json["checks"]]


def test_a_check_from_the_command_line_says_what_it_found(team: Team, drifted: FlowRun) -> None:
    team.until(drifted.id, "Completed", seconds=300)
    # The clock is months after the last row of this log.
    told = team.shell("monitor", "--json")
    assert told.code == 0, told
    found = told.json["monitoring"]
    assert found["quality"]["health"] == "incident"
    assert "The window has no rows." in found["quality"]["sentence"]
    assert found["weighed"]["decision"]["reason"].startswith("No retraining. Data incident: The window has no rows.")


def test_prefect_deploy_registers_the_same_deployments_and_schedules(team: Team, deployed: dict[str, Any]) -> None:
    def registered() -> dict[str, Any]:
        with team.server.client() as client:
            found = [client.read_deployment_by_name(row.full_name) for row in DEPLOYMENTS]
        return {
            one.name: (
                one.description,
                one.tags,
                one.work_pool_name,
                one.job_variables,
                [(s.schedule.cron, s.schedule.timezone, s.slug, s.parameters) for s in one.schedules],
                one.global_concurrency_limit and one.global_concurrency_limit.limit,
                one.concurrency_options and one.concurrency_options.collision_strategy,
            )
            for one in found
        }

    before = registered()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=os.environ | team.server.client_environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        with team.server.client() as client:
            assert client.read_deployment_by_name("monitor/monitor").entrypoint == "flows/monitor.py:monitor"
        assert registered() == before
    finally:
        assert team.shell("deploy", "--json").code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trigger", "knob", "because"),
    [
        ("volume", "volume_rows = 3000", "Retrain, by volume: "),
        ("schedule", "max_days_without_retrain = 1", "Retrain, by schedule: "),
    ],
)
def test_enough_new_rows_or_too_long_a_wait_start_one_retraining_too(
    deployed: dict[str, Any], team: Team, team_worker: Program, tmp_path: Path, trigger: str, knob: str, because: str
) -> None:
    grown = Team(tmp_path / "project", team.server, f"{TOML}{CHEAP}[triggers]\n{knob}\n")
    assert grown.config.exists()
    feed = with_champion(grown.folder, grown.shop)
    retrained_before(feed, CHECK - 5 * DAY)
    feed.live(CHECK)
    before = {run.id for run in runs_of(grown, "retrain/retrain")}
    assert grown.shell("deploy", "--json").code == 0
    try:
        # The second check tells it again, since no run may have taken it up yet; it still starts one run.
        for hours in (0, 1):
            check = grown.start("monitor/monitor", now=(CHECK + timedelta(hours=hours)).isoformat())
            grown.until(check, "Completed", seconds=240)

        def started() -> list[FlowRun]:
            return [run for run in started_runs(grown, "retrain/retrain") if run.id not in before]

        (run,) = wait_until(started, seconds=120, told=team.server.log.read_text)
        assert run.parameters["trigger"] == trigger
        assert run.parameters["reason"].startswith(because), run.parameters["reason"]
        team.until(run.id, "Completed", "Rejected", seconds=300)
        assert [one.id for one in started()] == [run.id]
        decided = store_of(feed).decisions(2)
        assert [one.decision for one in decided] == ["retrain", "wait"]
    finally:
        assert team.shell("deploy", "--json").code == 0


def retrained_before(feed: Feed, when: datetime) -> None:
    """A retraining that the schedule started, and that was not promoted."""
    signals = Signals(champion=feed.champion.version, scheduled=True)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):  # as if a server were there
        flight = weigh.fn(signals=signals, knobs=feed.settings.triggers, now=when, **feed.settings.store).flight
    assert flight is not None
    store_of(feed).take_up(flight.key, "earlier", when)
    store_of(feed).land("earlier", Landing(result="completed", at=when))


def store_of(feed: Feed) -> MonitorStore:
    return MonitorStore(feed.settings.workspace, feed.settings.registry.model_name)
