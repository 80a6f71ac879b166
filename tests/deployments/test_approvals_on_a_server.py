"""Approvals as a team lives with them: a Prefect server, a worker, a browser, the command line and curl, all real."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Failed, Scheduled

from deployments.automations import register_all
from deployments.definitions import DEPLOYMENTS, Deployment, ensure_pool, register
from flows.promote import promote
from flows.propose import propose
from ranking.ledger import Operation
from ranking.results import Approval, ModelRef
from settings.effects import ScheduleKnobs
from tests.deployments.prefect_ui import approve
from tests.deployments.team import Shell, Team
from tests.servers import POOL, PrefectServer, Program, browser, running_server, wait_until

ROOT = Path(__file__).parents[2]
RULES = '[approval]\napprovers = ["ann", "bob"]\nrequester_may_approve = false\n'
ANN = {"decision": "approve", "approver": "ann", "reason": "the numbers are clear"}


@pytest.fixture(scope="module")
def deployed(team_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> PrefectServer:
    """The server with feedloop's deployments on it, registered by the command line, and then once more."""
    team = Team(tmp_path_factory.mktemp("deployed"), team_server)
    told = team.shell("deploy", "--json")
    assert told.code == 0, told
    assert told.json["deployments"] == [
        "retrain/retrain",
        "monitor/monitor",
        "refresh/refresh",
        "advance/advance",
        "steer/steer",
        "propose/promote",
        "rollback/rollback",
        "replay/replay",
    ]
    assert told.json["pool_made"] is True
    with temporary_settings({PREFECT_API_URL: team_server.api}), team_server.client() as client:
        assert ensure_pool(client, POOL) is False
        for deployment in DEPLOYMENTS:
            register(deployment, config=team.config, pool=POOL, schedules=ScheduleKnobs())
    return team_server


@pytest.fixture
def feedloop(capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


@pytest.fixture(scope="module")
def team(deployed: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Team:
    """A project without a champion, whose rules are strict."""
    return Team(tmp_path_factory.mktemp("team"), deployed, RULES)


@pytest.fixture(scope="module")
def versions(team: Team) -> tuple[ModelRef, ...]:
    """Five challengers, each compared with no champion."""
    return tuple(team.challenger(seed) for seed in range(1, 6))


@pytest.fixture(scope="module")
def waiting(team: Team, versions: tuple[ModelRef, ...], team_worker: Program) -> dict[str, UUID]:
    """Runs of the deployment, all waiting for an answer at the same time; two of them about the third version."""
    short = team.write("short.toml", f"{RULES}timeout_hours = {1 / 3600}\n")
    asked = {
        "in the browser": team.ask(versions[0], requested_by="rita"),
        "stale": team.ask(versions[1], requested_by="rita"),
        "wrong digest": team.ask(versions[2], requested_by="rita"),
        "unknown": team.ask(versions[3], requested_by="rita"),
        "self": team.ask(versions[4], requested_by="Ann"),
        "expired": team.ask(versions[2], requested_by="rita", config=str(short)),
    }
    shown = {name: team.until_asked(run) for name, run in asked.items()}
    expires = datetime.fromisoformat(shown["expired"]["expires_at"])
    wait_until(lambda: datetime.now(UTC) > expires)
    return asked


def test_the_deployments_stand_on_the_server_as_in_the_table(deployed: PrefectServer) -> None:
    with deployed.client() as client:
        found = {deployment.name: deployment for deployment in client.read_deployments()}
        assert set(found) == {"retrain", "monitor", "refresh", "advance", "steer", "promote", "rollback", "replay"}
        assert found["promote"].entrypoint == "flows.propose.propose"
        assert found["retrain"].global_concurrency_limit is not None
        assert found["retrain"].global_concurrency_limit.limit == 1
        assert found["retrain"].concurrency_options is not None
        assert found["retrain"].concurrency_options.collision_strategy.value == "ENQUEUE"
        assert found["promote"].parameters["config"].endswith("feedloop.toml")
        assert client.read_work_pool(POOL).type == "process"


def test_pending_shows_what_waits_and_a_run_that_waits_has_no_process(
    feedloop: Shell,
    team: Team,
    waiting: dict[str, UUID],
    versions: tuple[ModelRef, ...],
    team_worker: Program,
) -> None:
    told = feedloop(team, "pending", "--json")
    assert told.code == 0, told.err
    shown = {UUID(one["flow_run_id"]): one for one in told.json["pending"]}
    assert set(waiting.values()) <= set(shown)
    one = shown[waiting["self"]]
    question = one["question"]
    assert (question["challenger"], question["against"]) == (versions[4].version, None)
    assert (question["decision"], question["confidence"], question["requested_by"]) == ("PROMOTE", "high", "Ann")
    assert question["evidence_digest"] == team.digest(versions[4])
    assert [shown[waiting[name]]["expired"] for name in ("self", "expired")] == [False, True]
    words = feedloop(team, "pending").out
    assert "(expired)" in " ".join(words.split()), words
    assert all(str(run) in words for run in waiting.values()), words
    assert {team.run(run).state.name for run in waiting.values()} == {"Suspended"}  # type: ignore[union-attr]
    assert not [line for line in _commands() if "prefect.flow_engine" in line and str(team_worker.folder) in line]


def test_the_event_that_calls_somebody_carries_the_question(team: Team, waiting: dict[str, UUID]) -> None:
    question = team.until_asked(waiting["self"])
    with team.server.client() as client:
        name = {"event": {"name": ["feedloop.approval.requested"]}}

        def payloads() -> list[Any] | None:
            events = client.request("POST", "/events/filter", json={"filter": name}).json()["events"]
            return [event for event in events if event["payload"] == question]

        found = wait_until(payloads, told=lambda: f"no event with {question}")
    assert found[0]["resource"]["prefect.resource.id"] == f"feedloop.model.feed_ranker.{question['challenger']}"


@pytest.fixture
def receiver() -> Iterator[tuple[str, Queue[dict[str, str]]]]:
    """Where notifications go: an HTTP server on loopback, and what it was sent."""
    told: Queue[dict[str, str]] = Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response_only(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", told
        server.shutdown()


def test_a_waiting_question_and_a_failed_run_are_told_through_the_notification_block_in_words(
    team: Team, waiting: dict[str, UUID], receiver: tuple[str, Queue[dict[str, str]]]
) -> None:
    url, told = receiver
    question = team.until_asked(waiting["self"])
    event = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "feedloop.approval.requested",
        "resource": {"prefect.resource.id": "feedloop.model.feed_ranker.told"},
        "payload": question,
    }
    with temporary_settings({PREFECT_API_URL: team.server.api}), team.server.client() as client:
        block = CustomWebhookNotificationBlock(
            name="team", url=url, json_data={"title": "{{subject}}", "text": "{{body}}"}
        )
        block.save("ranking-team", overwrite=True)
        ids = {row.name: client.read_deployment_by_name(row.full_name).id for row in DEPLOYMENTS}
        try:
            with_block = ScheduleKnobs(notification_block="custom-webhook/ranking-team")
            register_all(client, "feed_ranker", with_block, ids)
            client.request("POST", "/events", json=[event]).raise_for_status()
            asked = told.get(timeout=60)
            run = client.create_flow_run_from_deployment(
                ids["rollback"], name="back-to-2", parameters={"reason": "slow"}
            ).id
            client.set_flow_run_state(run, Failed(message="RegistryUnavailable: no answer from MLflow."), force=True)
            failed = told.get(timeout=60)
            client.delete_flow_run(run)
        finally:
            register_all(client, "feed_ranker", ScheduleKnobs(), ids)
    assert asked["title"] == "feedloop"
    assert asked["text"] == (
        f"Version {question['challenger']} of feed_ranker waits for an approval until {question['expires_at']}: "
        f"{question['reason']}"
    )
    assert failed["text"].startswith(
        "Run back-to-2 of rollback is Failed: RegistryUnavailable: no answer from MLflow. Who serves changes by a "
    )
    assert failed["text"].endswith(f"{team.server.url}/runs/flow-run/{run}"), failed["text"]


def test_a_bare_resume_is_turned_down_and_it_still_waits(team: Team, waiting: dict[str, UUID]) -> None:
    for answered in (team.resume(waiting["self"]), team.resume(waiting["self"], decision="approve", approver=" ")):
        assert answered["status"] == "REJECT"
        assert "approver" in answered["details"]["reason"] or "pattern" in answered["details"]["reason"]
    assert team.run(waiting["self"]).state.name == "Suspended"  # type: ignore[union-attr]
    assert team.champion() is None


def test_the_command_line_refuses_what_is_wrong_before_anything_is_sent(
    feedloop: Shell, team: Team, waiting: dict[str, UUID], versions: tuple[ModelRef, ...]
) -> None:
    run = str(waiting["wrong digest"])
    wrong = feedloop(team, "approve", run, "--digest", "0123456789", "--as", "ann")
    assert (wrong.code, wrong.err.split(":")[0]) == (7, "WrongEvidence"), wrong.err
    late = feedloop(team, "approve", str(waiting["expired"]), "--as", "ann")
    assert (late.code, late.err.split(":")[0]) == (7, "ApprovalExpired"), late.err
    assert "feedloop promote" in late.err
    unknown = feedloop(team, "approve", "77")
    assert (unknown.code, unknown.err.split(":")[0]) == (7, "NothingToAnswer"), unknown.err
    assert f"version {versions[0].version} of feed_ranker" in unknown.err
    several = feedloop(team, "approve", versions[2].version, "--as", "ann")
    assert several.code == 7
    assert f"'{versions[2].version}' names 2 questions" in several.err
    assert team.run(waiting["wrong digest"]).state.name == "Suspended"  # type: ignore[union-attr]


def test_each_approval_that_does_not_count_is_refused_by_name_and_recorded(
    feedloop: Shell, team: Team, waiting: dict[str, UUID], versions: tuple[ModelRef, ...]
) -> None:
    answers = {
        "wrong digest": (versions[2], {**ANN, "evidence_digest": "0" * 64}, "WrongEvidence"),
        "unknown": (versions[3], {**ANN, "approver": "mallory"}, "UnknownApprover"),
        "self": (versions[4], ANN, "SelfApproval"),
        "expired": (versions[2], ANN, "ApprovalExpired"),
    }
    for name, (_, answer, _) in answers.items():
        assert team.resume(waiting[name], **answer)["status"] == "ACCEPT"
    for name, (version, answer, error) in answers.items():
        state = team.until(waiting[name], "Refused").state
        assert state is not None
        assert state.message is not None
        assert state.message.startswith(f"{error}: "), state.message
        found = [entry for entry in team.entries() if entry.reason == state.message]
        assert [(entry.operation, entry.subject, entry.actor, entry.after) for entry in found] == [
            (Operation.REFUSE, version.version, answer["approver"], None)
        ]
    assert team.champion() is None
    again = feedloop(team, "approve", str(waiting["unknown"]))
    assert again.code == 7
    assert "was answered already: mallory approved at" in again.err
    assert "it is Refused" in again.err


@pytest.fixture(scope="module")
def approved_in_the_browser(
    team: Team, waiting: dict[str, UUID], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """The first challenger, approved in the Prefect UI; what the form showed on the way."""
    with browser(tmp_path_factory.mktemp("chromium")) as chrome:
        return approve(chrome, f"{team.server.url}/runs/flow-run/{waiting['in the browser']}")


def test_an_approval_in_a_browser_promotes_the_challenger_whose_numbers_stood_beside_the_form(
    team: Team, waiting: dict[str, UUID], versions: tuple[ModelRef, ...], approved_in_the_browser: list[str]
) -> None:
    shown, digest, decision, *rest = approved_in_the_browser
    for words in ("Shall version 1 of feed_ranker serve", "Asked by rita", "An approval counts until", "0.7200"):
        assert words in shown, shown
    assert digest == team.digest(versions[0])
    assert decision == "reject"
    assert "auc 0.7200" in rest
    assert "'approver' is a required property" in rest[-1]

    team.until(waiting["in the browser"], "Completed")
    entry = team.last_about(versions[0])
    assert (entry.operation, entry.after, entry.actor) == (Operation.PROMOTE, versions[0].version, "ann")
    assert (entry.reason, entry.channel, entry.requested_by) == ("the numbers are clear", "prefect", "rita")
    assert entry.evidence_digest == team.digest(versions[0])


@pytest.mark.usefixtures("approved_in_the_browser")
def test_an_approval_of_a_pair_whose_champion_has_changed_since_is_refused_as_stale(
    feedloop: Shell, team: Team, waiting: dict[str, UUID], versions: tuple[ModelRef, ...]
) -> None:
    team.until(waiting["in the browser"], "Completed")
    told = feedloop(team, "approve", versions[1].version, "--as", "bob", "--digest", team.digest(versions[1])[:10])
    assert told.code == 0, told.err
    team.until(waiting["stale"], "Refused")
    entry = team.last_about(versions[1])
    assert (entry.operation, entry.actor) == (Operation.REFUSE, "bob")
    assert entry.reason.startswith("StaleChampion: The challenger was compared with no champion, and version 1 serves")
    assert team.champion() == versions[0].version


@pytest.mark.slow
@pytest.mark.usefixtures("approved_in_the_browser")
def test_an_approval_found_among_the_parameters_of_its_run_cannot_be_used_again(
    team: Team, versions: tuple[ModelRef, ...], waiting: dict[str, UUID]
) -> None:
    team.until(waiting["in the browser"], "Completed")
    auto = team.write("auto.toml", f'{RULES}mode = "auto"\n')
    challenger = team.challenger(7, champion=versions[0])
    with team.server.client() as client:
        subflow = next(one for one in client.read_flow_runs() if one.name == f"promote-{versions[0].version}")
    used = Approval.model_validate(subflow.parameters["approval"])
    with temporary_settings({PREFECT_API_URL: team.server.api, PREFECT_HOME: team.folder / "home"}):
        assert propose(challenger.version, config=str(auto)).status == "promoted"
        promotion = promote(versions[0].version, used, config=str(team.config))
    assert promotion.status == "refused"
    assert promotion.reason.startswith("ApprovalReused: The approval by ann was used up by ledger entry")
    assert team.entries()[-1].operation is Operation.REFUSE
    assert team.champion() == challenger.version


def test_two_approvals_by_curl_and_command_line_survive_killed_worker_and_server_and_promote_once(
    feedloop: Shell, deployed: PrefectServer, team_worker: Program, tmp_path: Path
) -> None:
    pair = Team(tmp_path, deployed, "[approval]\napprovals = 2\n")
    challenger = pair.challenger(1)
    run = pair.ask(challenger, requested_by="rita")
    pair.until_asked(run)
    team_worker.kill()
    deployed.kill()
    lost = feedloop(pair, "approve", str(run))
    assert (lost.code, lost.err.split(":")[0]) == (9, "ServerUnavailable"), lost.err
    deployed.start()
    done = subprocess.run(
        ["bash", "-c", _documented("curl")],
        env=os.environ | {"PREFECT_API_URL": deployed.api, "RUN": str(run)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["status"] == "ACCEPT", done.stdout
    team_worker.start()
    assert pair.until_asked(run, number=2)["approved_by"] == ["ann"]
    assert feedloop(pair, "approve", str(run), "--as", "bob", "--reason", "yes").code == 0
    pair.until(run, "Completed")
    assert [(entry.operation, entry.after) for entry in pair.entries()] == [(Operation.PROMOTE, challenger.version)]
    assert (pair.entries()[0].actor, pair.entries()[0].reason) == ("ann, bob", "the numbers are clear; yes")
    with deployed.client() as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    names = [task.state_name for task in tasks if task.name.startswith("read evidence")]
    assert sorted(str(name) for name in names) == ["Cached", "Cached", "Completed"]


@pytest.mark.slow
def test_a_run_killed_in_a_blocking_pause_and_tried_again_asks_again_and_promotes_nothing(
    feedloop: Shell, deployed: PrefectServer, team_worker: Program, tmp_path: Path
) -> None:
    team = Team(tmp_path, deployed)
    challenger = team.challenger(1)
    with temporary_settings({PREFECT_API_URL: deployed.api}):
        flow = "tests.deployments.nightly:nightly"
        register(
            Deployment(name="nightly", flow=flow, description="A team's."),
            config=team.config,
            pool=POOL,
            schedules=ScheduleKnobs(),
        )
    parent = team.start("nightly/nightly", challenger=challenger.version)
    child = wait_until(lambda: _child(team, parent), seconds=120)
    team.until_asked(child)
    assert team.run(child).state.name == "Paused"  # type: ignore[union-attr]
    team_worker.kill()
    team_worker.start()
    with deployed.client() as client:
        client.set_flow_run_state(parent, Scheduled(), force=True)
    again = wait_until(lambda: _child(team, parent, number=2), seconds=120, told=lambda: _story(team, parent))
    question = team.until_asked(again, number=2)
    assert question["approved_by"] == []
    assert team.entries() == ()
    assert feedloop(team, "reject", str(again), "--as", "ann").code == 0
    team.until(parent, "Completed", "Rejected")
    assert [entry.operation for entry in team.entries()] == [Operation.DECLINE]


def _child(team: Team, parent: UUID, number: int = 1) -> UUID | None:
    """The subflow run of ``parent`` that has asked its question ``number``."""
    with team.server.client() as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]))
        )
    asked = [run.id for run in runs if any(key.endswith(f"-{number}-schema") for key in team.inputs(run.id))]
    return asked[0] if asked else None


def test_with_authentication_the_string_lets_in_and_is_never_shown(tmp_path: Path) -> None:
    secret = "feedloop:correct-horse-battery"  # noqa: S105 (of a server that lives for this test)
    with running_server(tmp_path, auth=secret) as server:
        team = Team(tmp_path / "team", server)
        told = [
            team.shell("pending", "--json", "--verbose"),
            team.shell("pending", PREFECT_API_AUTH_STRING=""),
            team.shell("approve", "1", PREFECT_API_AUTH_STRING="feedloop:guess"),
        ]
    assert [one.code for one in told] == [0, 9, 9], told
    assert told[0].json == {"pending": []}
    assert "does not let us in (401). Set PREFECT_API_AUTH_STRING" in told[1].err
    assert told[1].err.endswith("none is set.")
    assert told[2].err.endswith("the one that is set is not the server's.")
    for one in told:
        assert "correct-horse" not in one.out + one.err
        assert "guess" not in one.out + one.err


def test_without_a_server_the_commands_say_who_is_asked_instead(
    feedloop: Shell, tmp_path: Path, team_server: PrefectServer
) -> None:
    for command in (("pending",), ("approve", "1"), ("reject", "1"), ("deploy",)):
        told = feedloop(Team(tmp_path, team_server), *command, server=False)
        assert (told.code, told.err.split(":")[0]) == (2, "SettingsError"), told
        assert "asks at its own terminal" in told.err


def _story(team: Team, parent: UUID) -> str:
    """What is known of a run and its children, for whoever reads a failure."""
    with team.server.client() as client:
        runs = client.read_flow_runs()
    logs = [(run.name, run.state, run.run_count, list(team.inputs(run.id))) for run in runs]
    return "\n".join(str(line) for line in [team.run(parent).state, *logs])


def _documented(program: str) -> str:
    """The block of docs/approval.md that begins with ``program``."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "approval.md").read_text(encoding="utf-8"), re.DOTALL)
    return next(block for block in blocks if block.startswith(program))


def _commands() -> list[str]:
    """Command lines of all processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
