"""Looking up a request's features, against the same look-ups as pandas joins on the same tables.

``python -m benchmarks features`` writes a table of serving features of the sample feed and asks it for one user and
100 or 1,000 items.
"""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.table import Row
from ranking.features import FeatureSpec, HistoryKnobs, resolve
from ranking.serving_features import ServingFeatures
from ranking.serving_folder import ITEMS, USERS, history_file
from ranking.world import SAMPLE_ATTRIBUTES, SAMPLE_COLUMNS, SAMPLE_HISTORY_DAYS, World, WorldKnobs, as_known_at
from settings.effects import DataKnobs
from tasks.serving_features import write_serving_features

DAYS = 14
CONTEXT = {"ctx_hour": "3"}


def run(scale: float) -> list[Row]:
    """One row per number of candidates; ``scale`` changes how often each is asked."""
    times = max(20, round(500 * scale))
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        features, frames = _table(Path(folder))
        table = []
        for count in (100, 1_000):
            items = np.random.default_rng(0).choice(frames[ITEMS]["item_id"].to_numpy(), count).tolist()
            ours = _microseconds(lambda items=items: features.rows(5, items, CONTEXT, features.as_of), times)
            theirs = _microseconds(lambda items=items: _joined(frames, 5, items), max(10, times // 5))
            name = f"features of {count:,} candidates, against pandas joins"
            table.append(Row(name, 1e6 / ours, 1e6 / theirs, theirs / ours, "requests/s", f"{ours:.0f} µs a request"))
    return table


def _table(folder: Path) -> tuple[ServingFeatures, dict[str, pd.DataFrame]]:
    knobs = WorldKnobs()
    world, now = World(knobs), knobs.start + timedelta(days=DAYS)
    log = as_known_at(pd.concat([world.day(day) for day in range(DAYS)], ignore_index=True), now)
    log.to_parquet(folder / "log.parquet", index=False)
    history = HistoryKnobs(item_attributes=SAMPLE_ATTRIBUTES, windows_days=SAMPLE_HISTORY_DAYS, since_start=False)
    spec = FeatureSpec(log=resolve(SAMPLE_COLUMNS, list(log.columns)), history=history, label_delay_hours=2)
    data = DataKnobs(uri=str(folder / "log.parquet"), columns=SAMPLE_COLUMNS, label_delay_hours=2)
    table = write_serving_features.fn(data=data, spec=spec, as_of=now, now=now, workspace=str(folder))
    names = (USERS, ITEMS, *(history_file(number) for number in range(len(spec.history_keys))))
    frames = {name: pq.read_table(f"{table.uri}/{name}").to_pandas() for name in names}
    return ServingFeatures.load(table.uri), frames


def _joined(frames: dict[str, pd.DataFrame], user: int, items: list[int]) -> pd.DataFrame:
    rows = pd.DataFrame({"user_id": user, "item_id": items, **CONTEXT})
    rows = rows.merge(frames[USERS], how="left", on="user_id").merge(frames[ITEMS], how="left", on="item_id")
    for number, keys in enumerate((["user_id"], ["item_id"], ["item_category"], ["user_id", "item_category"])):
        rows = rows.merge(frames[history_file(number)], how="left", on=keys)
    return rows


def _microseconds(call: Callable[[], object], times: int) -> float:
    """Median time of one call."""
    seen = []
    for _ in range(times):
        began = perf_counter()
        call()
        seen.append(perf_counter() - began)
    return 1e6 * float(np.median(seen))
