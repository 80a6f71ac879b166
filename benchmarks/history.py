"""History features on a log larger than memory, against the same features written plainly in pandas.

``python -m benchmarks.history [--rows 20000000] [--folder DIR]`` writes a seeded log to disk, builds the day's and
the event's grain in a child process each, under ``memory_limit=2GB`` and two threads, and the day's grain in pandas.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import Row, print_table
from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, resolve

FULL_ROWS = 20_000_000
PANDAS_SHARE = 0.25
"""Pandas holds everything in memory at once: about 0.24 GB per million rows, so all of them would need 5 GB."""

WAREHOUSE = "duckdb://?memory_limit=2GB&threads=2"
START_US = 1_767_225_600_000_000
DAY_US = 86_400_000_000
DAYS = 28
CHUNK = 1_000_000
CATEGORIES = 50


def run(scale: float) -> list[Row]:
    """All rows of the table, on ``scale`` times 20 million interactions in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="feedloop-bench-") as folder:
        return rows(round(FULL_ROWS * scale), Path(folder))


def rows(count: int, folder: Path) -> list[Row]:
    """Measure on ``count`` interactions, written to ``folder``."""
    log = folder / f"log-{count}.parquet"
    if not log.exists():
        write_log(log, count)
    small = folder / f"log-{round(count * PANDAS_SHARE)}.parquet"
    if not small.exists():
        write_log(small, round(count * PANDAS_SHARE))
    theirs = _child("pandas", small)
    plain = round(count * PANDAS_SHARE) / theirs["seconds"]
    table = []
    for grain in ("day", "event"):
        ours = _child(grain, log)
        speed = count / ours["seconds"]
        peaks = f"{ours['peak_gb']:.2f} GB, pandas {theirs['peak_gb']:.2f} GB for {PANDAS_SHARE:.0%} of the rows"
        cpu = f"{ours['cpu_seconds']:.0f} and {theirs['cpu_seconds']:.0f} CPU-s"
        name = f"history by {grain}, {count:,} rows, against pandas by day"
        table.append(Row(name, speed, plain, speed / plain, "rows/s", f"peak memory {peaks}; {cpu}"))
    return table


def write_log(path: Path, count: int, seed: int = 0) -> None:
    """A log with heavy-tailed users and items, sorted by time, one chunk in memory at a time."""
    rng = np.random.default_rng(seed)
    users, items = max(100, count // 100), max(50, count // 200)
    category = rng.integers(0, CATEGORIES, items)
    edges = np.linspace(START_US, START_US + DAYS * DAY_US, -(-count // CHUNK) + 1).astype(np.int64)
    names = pa.array([f"category {number}" for number in range(CATEGORIES)])
    writer = None
    for number in range(len(edges) - 1):
        size = min(CHUNK, count - number * CHUNK)
        item = (items * rng.random(size) ** 3).astype(np.int64)
        chunk = pa.table(
            {
                "row_id": np.arange(number * CHUNK, number * CHUNK + size),
                "user_id": (users * rng.random(size) ** 2).astype(np.int64),
                "item_id": item,
                "timestamp": pa.array(np.sort(rng.integers(edges[number], edges[number + 1], size))).cast(
                    pa.timestamp("us", tz="UTC")
                ),
                "click": (rng.random(size) < 0.1).astype(np.int8),
                "item_category": names.take(pa.array(category[item])),
            }
        )
        writer = writer or pq.ParquetWriter(path, chunk.schema)
        writer.write_table(chunk)
    if writer is not None:
        writer.close()


def spec(grain: str) -> FeatureSpec:
    """History of user, item and category: nine columns."""
    columns = ColumnKnobs(item_features=FeatureGroup(categorical=("item_category",)))
    log = resolve(columns, ["user_id", "item_id", "timestamp", "click", "item_category"])
    history = HistoryKnobs(item_attributes=("item_category",), user_by_attribute=False, grain=grain)
    return FeatureSpec(log=log, history=history)


def in_duckdb(log: Path, out: Path, grain: str) -> None:
    """Read, build, sort by row, write: what the task does."""
    from ranking.history import with_history
    from tasks.adapters.warehouse import open_warehouse

    with open_warehouse(f"{WAREHOUSE}&temp_directory={log.parent}") as engine:
        rows = with_history(engine.read(str(log)), spec(grain), engine.stage)
        engine.write(rows.order_by("row_id"), str(out))


def in_pandas(log: Path, out: Path) -> None:
    """The same columns at the day's grain, as most people would write them."""
    import pandas as pd

    wanted = spec("day")
    frame = pd.read_parquet(log)
    frame["day"] = frame["timestamp"].dt.floor("D")
    days = pd.Index(sorted(frame["day"].unique()))
    total = frame.groupby("day")["click"].agg(["size", "sum"]).reindex(days).cumsum().shift(1, fill_value=0)
    prior = (total["sum"] + 1) / (total["size"] + 2)
    strength = wanted.history.prior_impressions
    for key in wanted.history_keys:
        column = key.columns[0]
        daily = frame.groupby([column, "day"], as_index=False).agg(
            n=("click", "size"), clicks=("click", "sum"), last=("timestamp", "max")
        )
        by_key = daily.groupby(column)
        daily["before"] = by_key["n"].cumsum() - daily["n"]
        daily["clicks_before"] = by_key["clicks"].cumsum() - daily["clicks"]
        daily["last"] = by_key["last"].shift(1)
        rate = daily["day"].map(prior)
        name = f"hist_{key.name}"
        daily[f"{name}_impressions"] = daily["before"].astype(float)
        daily[f"{name}_ctr"] = (daily["clicks_before"] + strength * rate) / (daily["before"] + strength)
        daily[f"{name}_recency_hours"] = (daily["day"] - daily["last"]).dt.total_seconds() / 3600
        features = [column, "day", f"{name}_impressions", f"{name}_ctr", f"{name}_recency_hours"]
        frame = frame.merge(daily[features], on=[column, "day"], how="left")
    frame.drop(columns="day").to_parquet(out, index=False)


def _child(what: str, log: Path) -> dict[str, float]:
    """Run one way in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.history", "--only", what, "--log", str(log)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def _measure(what: str, log: Path) -> dict[str, float]:
    out = log.with_name(f"features-{what}.parquet")
    start = perf_counter()
    if what == "pandas":
        in_pandas(log, out)
    else:
        in_duckdb(log, out, what)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    """Print the table; with ``--only`` measure one way in this process and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--rows", type=int, default=FULL_ROWS)
    parser.add_argument("--folder", type=Path, help="where the log is written and kept; a temporary folder without it")
    parser.add_argument("--only", choices=("day", "event", "pandas"), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(_measure(arguments.only, arguments.log)))
    elif arguments.folder:
        print_table("history", rows(arguments.rows, arguments.folder))
    else:
        print_table("history", run(arguments.rows / FULL_ROWS))


if __name__ == "__main__":
    main()
