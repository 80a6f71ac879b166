"""What processes that ended leave behind in the metrics."""

import os
import subprocess
import sys
from pathlib import Path

from deployments.gateway.metrics import forget_dead, forget_this


def test_what_a_dead_process_said_of_the_moment_is_dropped_and_what_it_counted_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"{kind}_{pid}.db" for kind in ("gauge_livesum", "counter") for pid in (ended.pid, os.getpid())]
    for name in names:
        (tmp_path / name).touch()
    forget_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {f"gauge_livesum_{ended.pid}.db"}
    forget_this(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"counter_{pid}.db" for pid in (ended.pid, os.getpid())}
