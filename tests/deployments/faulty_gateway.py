"""A gateway whose challenger has a fault: in the shadow by ``$FAULT``, before users by ``$LIVE_FAULT``.

Bundles carry no code, so a fault has to be planted; everything else is the real gateway.
"""

import os
import sys
import time
from typing import Any

import pyarrow as pa
import uvicorn

from deployments.gateway.app import create_app
from ranking.quick_encoding import QuickScorer
from settings.loading import load

CHALLENGER_SEED = 2
_score = QuickScorer.score


def faulty(scorer: QuickScorer, rows: pa.Table) -> Any:
    fault = os.environ["LIVE_FAULT"]
    # Not while it is warmed up: a challenger may load and answer well until its users come.
    if scorer._bundle.facts.seed == CHALLENGER_SEED and rows.num_rows != 100:
        if fault == "raise":
            raise RuntimeError("planted")
        if fault == "nan":
            return _score(scorer, rows) * float("nan")
        time.sleep(3600 if fault == "hang" else 0.3)
    return _score(scorer, rows)


if __name__ == "__main__":
    if "LIVE_FAULT" in os.environ:
        QuickScorer.score = faulty  # type: ignore[method-assign]  # the fault
    port = int(sys.argv[sys.argv.index("--port") + 1])
    app = create_app(load(), shadow_child="tests.deployments.faulty_shadow")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
