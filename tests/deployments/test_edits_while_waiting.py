"""Code and settings edited while a retrain run waits: the approved model is promoted, or it is asked again."""

import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.definitions import Deployment, ensure_pool, register
from ranking.ledger import Operation
from settings.effects import ScheduleKnobs
from tests.deployments.team import Team
from tests.deployments.test_cli import TOML, log
from tests.servers import ROOT, PrefectServer, running_worker, wait_until

pytestmark = pytest.mark.slow

POOL = "edited"
PACKAGES = ("ranking", "settings", "tasks", "flows", "deployments")


def test_what_is_promoted_is_what_was_approved_whatever_was_edited_while_it_waited(
    team_server: PrefectServer, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, code / package)
    team = Team(tmp_path / "team", team_server, TOML)
    assert team.champion() is None
    log().to_parquet(team.config.parent / "log.parquet")
    row = Deployment(name="edited", flow="flows.retrain:retrain", description="Of a checkout that is edited.")
    with temporary_settings({PREFECT_API_URL: team_server.api}), team_server.client() as client:
        ensure_pool(client, POOL)
        register(row, config=team.config, pool=POOL, schedules=ScheduleKnobs())
    with running_worker(team_server, tmp_path, POOL, code):
        run = team.start("retrain/edited", cutoff="2026-01-10T00:00:00Z", requested_by="rita")
        first = team.until_asked(run, seconds=300)

        # Another seed makes another model: the approval of the first is not good for it, so it is asked again.
        team.write("feedloop.toml", f"seed = 9\n{TOML}")
        team.resume(run, decision="approve", approver="ann", reason="good")
        second = wait_until(lambda: _another(team, run, first), seconds=300, told=lambda: str(team.run(run).state))
        assert second["evidence_digest"] != first["evidence_digest"]
        assert team.champion() is None

        # Code that would train another model yet: what was done is not done again, and the approved one is promoted.
        module = code / "tasks" / "training.py"
        source = module.read_text()
        edited = source.replace("        seed=seed,\n", "        seed=seed + 1,\n", 1)
        assert edited != source
        module.write_text(edited)
        team.resume(run, decision="approve", approver="bob", reason="better")
        team.until(run, "Completed", seconds=300)

    versions = team.shop.registry.versions()
    assert [version.version for version in versions] == [first["challenger"], second["challenger"]]
    assert len({version.digest for version in versions}) == 2
    (entry,) = team.entries()
    assert (entry.operation, entry.after, entry.actor) == (Operation.PROMOTE, second["challenger"], "bob")
    assert entry.evidence_digest == second["evidence_digest"]


def _another(team: Team, run: UUID, first: dict[str, Any]) -> dict[str, Any] | None:
    """The question about another challenger than the first one."""
    state = team.run(run).state
    assert state is not None
    assert not state.is_final(), state
    inputs = team.inputs(run)
    asked = [value for key, value in inputs.items() if key.endswith("-question") and value != first]
    shown = sum(key.endswith("-schema") for key in inputs) == len(asked) + 1
    return asked[0] if asked and shown and state.is_paused() else None
