"""Logs as a gateway writes them, and outcomes as they arrive, from made-up traffic."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def traffic(
    requests: int,
    seed: int = 0,
    *,
    arms: tuple[str, ...] = ("treatment", "control", "rest"),
    rollout: str = "r1",
    hours: float = 6,
    start: datetime = START,
) -> pd.DataFrame:
    """Requests of 300 users, each user in an arm of its own."""
    random = np.random.default_rng(seed)
    users = random.integers(0, 300, requests)
    return pd.DataFrame(
        {
            "request_id": [f"q{number}" for number in range(requests)],
            "user": [f"u{user}" for user in users],
            "time": [start + timedelta(seconds=float(s)) for s in np.sort(random.uniform(0, hours * 3600, requests))],
            "rollout": rollout,
            "stage": 0,
            "arm": [arms[user % len(arms)] for user in users],
            "version": "1",
            "entry": 3,
            "outcome": "ok",
            "latency_ms": 4.0,
            "candidates": 3,
            "bad": random.random(requests) < 0.02,
        }
    )


def exposures_of(requests: pd.DataFrame) -> pd.DataFrame:
    """Three impressions of every request."""
    shown = requests.loc[requests.index.repeat(3)].reset_index(drop=True)
    position = np.tile([1, 2, 3], len(requests))
    return shown.assign(
        item=[f"i{place}" for place in position],
        position=position,
        score=0.5,
        propensity=0.1,
        features_digest="f",
        team=-1,
    )


def outcomes_of(exposures: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "request_id": exposures["request_id"],
            "user_id": exposures["user"],
            "item_id": exposures["item"],
            "timestamp": exposures["time"],
            "click": (random.random(len(exposures)) < 0.2).astype(np.int8),
        }
    )


def write(place: Path, log: str, rows: pd.DataFrame, schema: pa.Schema) -> None:
    """The rows as a gateway writes them: by day."""
    for day, some in rows.groupby(rows["time"].map(lambda time: f"{time:%Y-%m-%d}")):
        folder = place / "online" / log / f"day={day}"
        folder.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pandas(some[schema.names], schema=schema, preserve_index=False)
        pq.write_table(table, folder / f"part-{len(list(folder.iterdir()))}.parquet")


def write_outcomes(place: Path, rows: pd.DataFrame, name: str = "outcomes") -> None:
    (place / name).mkdir(exist_ok=True)
    rows.to_parquet(place / name / f"{len(list((place / name).iterdir()))}.parquet")
