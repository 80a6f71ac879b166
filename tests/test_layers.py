"""The layer rule is enforced: a lower layer never imports a higher one, and ranking stays pure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUFF = ("-m", "ruff", "check", "--select", "TID251", "--output-format", "json", "--no-cache")


@pytest.mark.parametrize(
    ("package", "line", "says"),
    [
        ("ranking", "from settings.model import Settings", "ranking is below settings"),
        ("ranking", "import mlflow", "ranking is pure"),
        ("ranking", "from prefect import task", "ranking is pure"),
        ("ranking", "from datetime import datetime\nNOW = datetime.now(tz=None)", "time is an argument"),
        ("ranking", "import os\nHOME = os.environ['HOME']", "only reader of the environment"),
        ("settings", "import tasks.data", "settings is below tasks"),
        ("tasks", "from flows.retrain import retrain", "tasks is below flows"),
        ("tasks/adapters", "from prefect import task", "adapters know no Prefect"),
        ("flows", "from deployments.cli import app", "flows is below deployments"),
    ],
)
def test_an_import_against_the_layers_is_refused(package: str, line: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, *RUFF, "--stdin-filename", str(ROOT / package / "planted.py"), "-"],
        input=f"{line}\n",
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert says in " ".join(problem["message"] for problem in json.loads(done.stdout))
