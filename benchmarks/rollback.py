"""From the command to the changed champion: ``feedloop rollback``, beside the least that any script could do.

The least is an MLflow alias moved by hand: no ledger, no verified bytes, no golden requests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
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
        ours, theirs = [], []
        for repeat in range(REPEATS):
            folder = Path(name) / str(repeat)
            shutil.copytree(stocked, folder)
            ours.append(_seconds([_feedloop(), "rollback", "--reason", "clicks fell"], folder))
            uri = f"sqlite:///{folder / '.feedloop' / 'mlflow.db'}"
            theirs.append(_seconds([sys.executable, "-c", _BY_HAND, uri], folder))
    middle = REPEATS // 2
    rolled, moved = sorted(ours)[middle], sorted(theirs)[middle]
    note = "process start to exit: bytes verified, golden requests repeated, ledger, aliases"
    return [Row("rollback by command", rolled, moved, moved / rolled, "s", note)]


def _feedloop() -> str:
    return str(Path(sys.executable).with_name("feedloop"))


def _stocked(folder: Path) -> Path:
    """A project where version 2 replaced version 1."""
    from ranking.approval import ApprovalRules
    from tasks.champion import serving
    from tasks.promotion import promote
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
            challenger=challenger,
            evidence=evidence,
            approval=approval_of(evidence),
            rules=ApprovalRules(),
            policy_digest=evidence.policy_digest,
            forced=False,
            reason="",
            now=NOW,
        )
    return folder


def _seconds(command: list[str], folder: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - start
