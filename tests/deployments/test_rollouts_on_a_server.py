"""Rollouts as a team lives with them: ticks by a worker, a winner that is asked about once, a form that stops it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.definitions import DEPLOYMENTS, ensure_pool, register
from ranking.approval import ApprovalRules
from ranking.decision import Decision
from ranking.experiment_knobs import ExperimentKnobs
from ranking.ledger import Operation
from ranking.results import Evidence, ModelRef
from ranking.rollout import ReleasePlan, RolloutStatus
from ranking.strategies import AbTest
from settings.effects import ScheduleKnobs
from settings.loading import load
from tasks import rollout_entries, rollouts
from tasks.promotion import Proposal, promote
from tests.deployments.team import Team, runs_of
from tests.servers import POOL, PrefectServer, Program
from tests.tasks.tiny_models import approval_of, evidence_about

NEVER = ScheduleKnobs(advance_cron="0 0 1 1 *")
TEST = AbTest(first=None, experiment=ExperimentKnobs(weeks=1))


@pytest.fixture
def team(team_server: PrefectServer, team_worker: Program, tmp_path: Path) -> Iterator[Team]:
    """A project of its own on the shared server."""
    team = Team(tmp_path, team_server)
    with temporary_settings({PREFECT_API_URL: team_server.api}), team_server.client() as client:
        ensure_pool(client, POOL)
        for deployment in DEPLOYMENTS:
            if deployment.name in {"advance", "steer", "promote"}:
                register(deployment, config=team.config, pool=POOL, schedules=NEVER)
        yield team


def settled(team: Team, evidence: Evidence, now: datetime) -> None:
    """An approval that somebody gave a while ago."""
    promote(
        team.shop.registry,
        team.shop.ledger,
        Proposal(
            challenger=evidence.comparison.challenger,
            evidence=evidence,
            approval=approval_of(evidence).model_copy(update={"at": now}),
            rules=ApprovalRules(),
            policy_digest=load(team.config).policy_digest,
            now=now,
        ),
    )


def in_a_test(team: Team, *, won: bool) -> ModelRef:
    """A challenger in an A/B test that began a week ago, and was won just now."""
    begun = datetime.now(UTC) - timedelta(days=8)
    champion = team.challenger(1)
    first = team.shop.registry.evidence(champion)
    assert first is not None
    settled(team, first, begun)
    challenger = team.shop.register(2)
    undecided = evidence_about(challenger, champion, Decision.A_B_TEST)
    evidence = undecided.model_copy(
        update={"policy_digest": load(team.config).policy_digest, "plan": ReleasePlan(strategy=TEST).kept}
    )
    team.shop.registry.record(challenger, evidence)
    settled(team, evidence, begun)
    rollout = rollout_entries.running(team.entries())
    assert rollout is not None
    if won:
        done = rollout.model_copy(update={"status": RolloutStatus.COMPLETED, "history": ()})
        entries = team.entries()
        draft = rollouts.Draft(
            operation=Operation.ROLLOUT,
            before="1",
            after="1",
            subject="2",
            digest=challenger.digest,
            evidence_digest=evidence.digest,
            forced=False,
            actor="advance",
            reason="COMPLETE: B is proven better.",
            at=datetime.now(UTC),
            rollout=done.model_dump(mode="json"),
        )
        team.shop.ledger.append(draft, entries[-1])
    return challenger


def test_the_winner_of_an_ab_test_is_asked_about_once_and_promoted_when_somebody_approves(team: Team) -> None:
    in_a_test(team, won=True)
    before = {run.id for run in runs_of(team, "propose/promote")}
    for _ in range(2):
        team.until(team.start("advance/advance"), "Completed")
    asked = [run for run in runs_of(team, "propose/promote") if run.id not in before]
    assert len(asked) == 1
    question = team.until_asked(asked[0].id)
    assert (question["challenger"], question["against"], question["decision"]) == ("2", "1", "A_B_TEST")
    text = str(next(value for key, value in team.inputs(asked[0].id).items() if key.endswith("-description")))
    assert "PROMOTE_B.** B is proven better." in text
    assert team.champion() == "1"
    answer = {"decision": "approve", "approver": "ann", "reason": "it won"}
    team.resume(asked[0].id, **answer)
    team.until(asked[0].id, "Completed")
    assert team.champion() == "2"
    last = team.until(team.start("advance/advance"), "Completed", "Nothing to do")
    assert last.state is not None
    assert last.state.name == "Nothing to do"


def test_a_rollout_is_stopped_from_the_form_of_a_deployment(team: Team) -> None:
    in_a_test(team, won=False)
    team.until(team.start("steer/steer", action="abort", reason="a bug in the feed", actor="eve"), "Completed")
    last = team.entries()[-1]
    assert (last.operation, last.actor, last.reason) == (Operation.ROLLOUT, "eve", "abort: a bug in the feed")
    assert rollout_entries.running(team.entries()) is None
