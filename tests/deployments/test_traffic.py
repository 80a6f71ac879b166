"""Simulated traffic from the command line: a real gateway, real ticks, challengers of known quality."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

pytestmark = pytest.mark.slow

TOML = """
workspace = ".feedloop"
[data]
uri = "sample"
[training]
max_epochs = 3
"""


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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed")
    (folder / "feedloop.toml").write_text(TOML)
    Shell(folder).run("run --yes")
    return folder


@pytest.fixture
def shell(base: Path) -> Shell:
    """The same folder for all: what was rolled back stays registered and does not serve."""
    return Shell(base)


def test_a_challenger_that_crashes_is_rolled_back_by_its_bad_sessions(shell: Shell) -> None:
    champion = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger crashing --strategy canary --days 0.3")
    assert told["champion"]["version"] == champion
    assert "ROLL_BACK: Rolled back in stage '10 %'" in " ".join(told["said"].split())
    status = shell.run("rollout status")
    assert (status["rollout"]["status"], status["rollout"]["stage"]) == ("rolled_back", 0)


def test_an_equal_challenger_climbs_the_ramp_and_becomes_the_champion(shell: Shell) -> None:
    before = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger equal --strategy canary --days 2")
    said = " ".join(told["said"].split())
    for stage in ("25 %", "50 %", "100 %, bake"):
        assert f"On to stage '{stage}'" in said
    assert told["champion"]["version"] != before
    outcomes = ds.dataset(told["outcomes"], format="parquet")
    shown = ds.dataset(str(shell.folder / ".feedloop/online/exposures"), format="parquet")
    assert 0 < outcomes.count_rows() <= shown.count_rows()


def test_a_worse_challenger_never_serves_everybody(shell: Shell) -> None:
    before = shell.run("status")["champion"]["version"]
    told = shell.run("simulate --traffic --challenger worse --strategy canary --days 2 --seed 3")
    assert told["champion"]["version"] == before
    assert "ROLL_BACK" in told["said"]
