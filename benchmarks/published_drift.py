"""The same day in Evidently, a published tool, in an environment of its own: it needs an older pandas than feedloop.

::

    python -m venv evidently && evidently/bin/pip install evidently "pandas<3"
    EVIDENTLY_PYTHON=evidently/bin/python python -m benchmarks drift

That Python runs this file as a script; it imports nothing of feedloop.
"""

import json
import sys
from time import process_time


def main(reference_file: str, current_file: str) -> None:
    """Print CPU seconds and each column's PSI as JSON."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    old, new = (pd.read_parquet(file).drop(columns=["user", "item", "time"]) for file in (reference_file, current_file))
    started = process_time()
    snapshot = Report([DataDriftPreset(method="psi")]).run(new, old)
    found = {
        metric["config"]["column"]: float(metric["value"])
        for metric in json.loads(snapshot.json())["metrics"]
        if "column" in metric.get("config", {})
    }
    sys.stdout.write(json.dumps({"seconds": process_time() - started, "psi": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
