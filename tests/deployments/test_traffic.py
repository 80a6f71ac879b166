"""Simulated traffic from the command line: a real gateway, real ticks, challengers of known quality."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

pytestmark = pytest.mark.slow


class Shell:
    """feedloop in a folder of its own, embedded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        self.env.pop("PREFECT_API_URL", None)

    def run(self, arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "deployments.cli", *arguments.split(), "--json"]
        done = subprocess.run(
            command, check=False, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, done.stderr[-3000:]
        print(done.stderr[-6000:])
        return {"said": done.stderr, **json.loads(done.stdout)}

    def broken_off(self, arguments: str, after: str) -> None:
        """Run until something is said, then press Ctrl-C."""
        command = [sys.executable, "-m", "deployments.cli", *arguments.split()]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert any(after in line for line in process.stdout)
            os.killpg(process.pid, signal.SIGINT)
            rest = process.stdout.read()
        assert process.returncode == 130
        assert "Broken off." in rest


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed")
    assert Shell(folder).run("run --yes")["verdict"]["decision"] == "PROMOTE"
    return folder


@pytest.fixture
def shell(base: Path) -> Shell:
    """The same folder for all, one after the other: what was rolled back stays registered and does not serve."""
    return Shell(base)


def words(told: dict[str, Any]) -> str:
    """What was said, in one line: the terminal breaks sentences anywhere."""
    return " ".join(told["said"].split())


def test_a_challenger_that_crashes_is_rolled_back_by_its_bad_sessions(shell: Shell) -> None:
    champion = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger crashing --days 0.3")
    assert told["champion"]["version"] == champion
    assert "ROLL_BACK: Rolled back in stage '10 %'" in words(told)
    status = shell.run("rollout status")
    assert (status["rollout"]["status"], status["rollout"]["stage"]) == ("rolled_back", 0)


def test_a_worse_challenger_is_rolled_back_by_the_clicks_of_few_users(shell: Shell) -> None:
    champion = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger worse --strategy canary --days 2 --seed 3")
    assert told["champion"]["version"] == champion
    assert re.search(r"ROLL_BACK: Rolled back in stage '(10|25) %'\. Click-through rate changed by -", words(told))
    assert "a drop is proven" in words(told)
    assert shell.run("rollout status")["rollout"]["quarantined"]


def test_a_shadow_of_learnt_features_that_no_table_serves_is_invalid(shell: Shell) -> None:
    champion = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger stale --strategy shadow --days 1")
    assert told["champion"]["version"] == champion
    assert "INVALID: Stage 'shadow' cannot be judged" in words(told)
    assert "Feature 'hist_item_recency_hours' was known in" in words(told)
    assert shell.run("rollout status")["rollout"]["status"] == "invalid"


def test_a_shadow_of_an_equal_challenger_passes_every_rule(shell: Shell) -> None:
    before = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger equal --strategy shadow")
    assert "log loss +0.00%" in words(told)
    assert "COMPLETE: Every check of stage 'shadow' is ok. The challenger may be promoted." in words(told)
    assert told["champion"]["version"] != before


def test_an_equal_challenger_climbs_the_ramp_and_becomes_the_champion(shell: Shell) -> None:
    before = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --strategy canary")
    for stage in ("25 %", "50 %", "100 %, bake"):
        assert f"On to stage '{stage}'" in words(told)
    assert told["champion"]["version"] != before
    outcomes = ds.dataset(told["outcomes"], format="parquet")
    shown = ds.dataset(str(shell.folder / ".feedloop/online/exposures"), format="parquet")
    assert 0 < outcomes.count_rows() <= shown.count_rows()


def test_a_simulation_that_was_broken_off_goes_on_in_the_same_stage(shell: Shell) -> None:
    champion = shell.run("status")["champion"]["version"]
    shell.broken_off("simulate --traffic --challenger equal --strategy canary", after="Stage '10 %' is held")
    before = shell.run("rollout status")["rollout"]
    assert (before["status"], before["stage"]) == ("running", 0)
    told = shell.run("simulate --traffic --challenger worse --days 0.1")
    assert f"Rollout {before['id']} goes on, in stage '10 %'" in words(told)
    assert "nobody else sets out" in words(told)
    after = shell.run("rollout status")["rollout"]
    assert (after["id"], after["entered"]) == (before["id"], before["entered"])
    pages = ds.dataset(str(shell.folder / ".feedloop/online/requests"), format="parquet").to_table(["request_id"])
    assert len(set(pages["request_id"].to_pylist())) == pages.num_rows
    shell.run("rollout abort --reason over")
    assert told["champion"]["version"] == champion


def test_the_winner_of_an_ab_test_is_proposed_and_promoted(shell: Shell) -> None:
    before = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger better --strategy ab_test")
    assert "B is proven better, and every guardrail is proven harmless." in words(told)
    assert "Approved by" in words(told)
    assert told["champion"]["version"] != before
    entry = shell.run("history")["entries"][-1]
    assert (entry["operation"], entry["after"]) == ("promote", told["champion"]["version"])
