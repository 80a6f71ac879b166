"""From the command to the changed champion: ``feedloop rollback``, beside the least that any script could do.

The least is an MLflow alias moved by hand: no ledger, no verified bytes, no golden requests.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.table import Row

REPEATS = 3
_BY_HAND = """
import sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
client.set_registered_model_alias("feed_ranker", "champion", "1")
"""


def run(scale: float) -> list[Row]:
    """Time whole processes; the median of a few.  ``scale`` does not matter here."""
    del scale
    with tempfile.TemporaryDirectory(prefix="feedloop-rollback-") as name:
        stocked = _stocked(Path(name) / "stocked")
        changed, ours, theirs = [], [], []
        for repeat in range(REPEATS):
            folder = Path(name) / str(repeat)
            shutil.copytree(stocked, folder)
            until_changed, until_ended = _rolled_back(folder)
            changed.append(until_changed)
            ours.append(until_ended)
            uri = f"sqlite:///{folder / '.feedloop' / 'mlflow.db'}"
            theirs.append(_seconds([sys.executable, "-c", _BY_HAND, uri], folder))
    middle = REPEATS // 2
    first, last, moved = (sorted(times)[middle] for times in (changed, ours, theirs))
    note = "bytes verified, golden requests repeated, ledger, aliases"
    return [
        Row("command to champion changed", first, moved, moved / first, "s", note),
        Row("command to exit", last, moved, moved / last, "s", "and tags and description besides"),
    ]


def _feedloop() -> str:
    return str(Path(sys.executable).with_name("feedloop"))


def _stocked(folder: Path) -> Path:
    """A project where version 2 replaced version 1."""
    from ranking.approval import ApprovalRules
    from tasks.champion import serving
    from tasks.promotion import Proposal, promote
    from tests.tasks.tiny_models import NOW, approval_of, evidence_about, open_shop

    (folder / ".feedloop").mkdir(parents=True)
    (folder / "feedloop.toml").write_text('[data]\nuri = "log.parquet"\n')
    shop = open_shop(folder / ".feedloop")
    for seed in (1, 2):
        challenger = shop.register(seed)
        evidence = evidence_about(challenger, serving(shop.registry, shop.ledger))
        promote(
            shop.registry,
            shop.ledger,
            Proposal(
                challenger=challenger,
                evidence=evidence,
                approval=approval_of(evidence),
                rules=ApprovalRules(),
                policy_digest=evidence.policy_digest,
                now=NOW,
            ),
        )
    return folder


def _rolled_back(folder: Path) -> tuple[float, float]:
    """Seconds until the alias names the former champion, and until the command has ended."""
    query = "SELECT version FROM registered_model_aliases WHERE name = 'feed_ranker' AND alias = 'champion'"
    with closing(sqlite3.connect(folder / ".feedloop" / "mlflow.db")) as connection:
        start = time.perf_counter()
        command = [_feedloop(), "rollback", "--reason", "clicks fell"]
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while connection.execute(query).fetchone()[0] != 1:
            assert process.poll() in (None, 0)
            time.sleep(0.01)
        changed = time.perf_counter() - start
        assert process.wait() == 0
    return changed, time.perf_counter() - start


def _seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start
