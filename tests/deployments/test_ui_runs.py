"""A person retrains by hand: the form of the deployment, the approval and the new champion, all in a real browser."""

from pathlib import Path

import pytest

from ranking.ledger import Operation
from tests.deployments.prefect_ui import approve, start_run
from tests.deployments.team import Team, runs_of
from tests.deployments.test_cli import TOML, log
from tests.servers import PrefectServer, browser, running_worker, wait_until

pytestmark = pytest.mark.slow

POOL = "by-hand"
RULES = """
[approval]
requester_may_approve = false
"""


def test_a_run_from_the_form_pauses_is_approved_in_the_ui_and_promotes(
    team_server: PrefectServer, tmp_path: Path
) -> None:
    team = Team(tmp_path / "team", team_server, TOML + RULES)
    assert team.champion() is None
    log().to_parquet(team.config.parent / "log.parquet")
    told = team.shell("deploy", "--json", "--pool", POOL)
    assert told.code == 0, told
    with team_server.client() as client:
        deployment = client.read_deployment_by_name("retrain/retrain").id
    before = {run.id for run in runs_of(team, "retrain/retrain")}

    with running_worker(team_server, tmp_path, POOL), browser(tmp_path) as chrome:
        picture = tmp_path / "form.png"
        form = f"{team_server.url}/deployments/deployment/{deployment}/run"
        shown = start_run(chrome, form, picture, requested_by="rita", reason="the catalogue was changed")
        for words in ("what asked for this run.", "manual", "combined", "use rows before this moment; without one"):
            assert words in shown, shown
        (run,) = [run for run in runs_of(team, "retrain/retrain") if run.id not in before and not run.auto_scheduled]
        assert run.parameters["requested_by"] == "rita"
        assert run.parameters["reason"] == "the catalogue was changed"
        assert run.parameters["trigger"] == "manual"
        assert run.parameters["config"] == str(team.config)

        question = team.until_asked(run.id, seconds=300)
        page = f"{team_server.url}/runs/flow-run/{run.id}"
        asked = approve(chrome, page)
        assert f"Shall version {question['challenger']} of feed_ranker serve" in asked[0]
        team.until(run.id, "Completed", seconds=240)
        chrome.get(page)
        wait_until(lambda: "Completed" in chrome.page_source)
    (entry,) = team.entries()
    assert (entry.operation, entry.after, entry.actor) == (Operation.PROMOTE, question["challenger"], "ann")
    assert (entry.requested_by, entry.channel, entry.reason) == ("rita", "prefect", "the numbers are clear")
