"""What a gateway logs of its answers: the columns of every log, and answers as rows of them.

Each log is a folder of parquet files, one sub-folder per UTC day of ``time``.  Readers and writers take
the columns from here and from nowhere else.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from ranking.values import Value

_TIME = pa.timestamp("us", tz="UTC")

REQUESTS = pa.schema(
    {
        "request_id": pa.string(),
        "user": pa.string(),
        "time": _TIME,
        "rollout": pa.string(),
        "stage": pa.int32(),
        "arm": pa.string(),
        "version": pa.string(),
        "entry": pa.int64(),
        "outcome": pa.string(),
        "latency_ms": pa.float64(),
        "candidates": pa.int32(),
        "bad": pa.bool_(),
    }
)
"""One row per request that had an arm, also if it could not be answered.  ``version`` is the one that answered."""

EXPOSURES = pa.schema(
    {
        "request_id": pa.string(),
        "user": pa.string(),
        "item": pa.string(),
        "position": pa.int32(),
        "rollout": pa.string(),
        "stage": pa.int32(),
        "arm": pa.string(),
        "version": pa.string(),
        "score": pa.float64(),
        "propensity": pa.float64(),
        "time": _TIME,
        "features_digest": pa.string(),
        "team": pa.int8(),
    }
)
"""One row per item that was returned, from position 1.  ``team``: -1 unless lists were mixed, see ``interleaving``."""

SHADOW = pa.schema(
    {
        "request_id": pa.string(),
        "user": pa.string(),
        "item": pa.string(),
        "position": pa.int32(),
        "rollout": pa.string(),
        "stage": pa.int32(),
        "champion_score": pa.float64(),
        "challenger_score": pa.float64(),
        "time": _TIME,
    }
)
"""One row per candidate that a shadow was asked for.  A null score: it failed.  Dropped requests have no rows here."""

SHADOW_REQUESTS = pa.schema(
    {
        "request_id": pa.string(),
        "time": _TIME,
        "rollout": pa.string(),
        "stage": pa.int32(),
        "outcome": pa.string(),
        "latency_ms": pa.float64(),
        "features": pa.list_(pa.struct({"name": pa.string(), "known": pa.float64()})),
    }
)
"""One row per request that was chosen for a shadow.  ``features``: share of the shown items that had a value."""

BEATS = pa.schema({"gateway": pa.string(), "time": _TIME, "requests": pa.int64()})
"""One row per flush of a gateway, with traffic or without: nobody came is a measurement, silence is not."""

LOGS: dict[str, pa.Schema] = {
    "requests": REQUESTS,
    "exposures": EXPOSURES,
    "shadow": SHADOW,
    "shadow_requests": SHADOW_REQUESTS,
    "beats": BEATS,
}
"""Every log by the name of its folder."""


class Outcome(StrEnum):
    """How a request ended.  Everything but ``ok`` is bad."""

    OK = "ok"
    FALLBACK = "fallback"
    TIMEOUT = "timeout"
    ERROR = "error"


class ShadowOutcome(StrEnum):
    """What became of a request that was chosen for the shadow.  Only ``scored`` counts as covered."""

    SCORED = "scored"
    FAILED = "failed"
    TIMEOUT = "timeout"
    DROPPED = "dropped"


class Answered(Value):
    """One request and what was shown for it: the items in order, and the score of each."""

    kind: Literal["answered"] = "answered"
    request_id: str
    user: str
    time: int = Field(description="Microseconds since 1970, UTC.")
    rollout: str
    stage: int
    arm: str
    version: str
    entry: int
    outcome: Outcome
    latency_ms: float
    candidates: int
    bad: bool
    propensity: float
    features_digest: str
    items: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    teams: tuple[int, ...] | None = None


class Shadowed(Value):
    """One request that was chosen for the shadow: the items in the champion's order, and both scores."""

    kind: Literal["shadowed"] = "shadowed"
    request_id: str
    user: str
    time: int = Field(description="Microseconds since 1970, UTC.")
    rollout: str
    stage: int
    outcome: ShadowOutcome
    latency_ms: float | None
    features: dict[str, float] | None = None
    items: tuple[str, ...] = ()
    champion_scores: tuple[float, ...] = ()
    challenger_scores: tuple[float, ...] | None = None


class Beat(Value):
    """A gateway was there, and answered so many requests since its last beat."""

    kind: Literal["beat"] = "beat"
    gateway: str
    time: int = Field(description="Microseconds since 1970, UTC.")
    requests: int


Record = Annotated[Answered | Shadowed | Beat, Field(discriminator="kind")]

Plain = dict[str, Any]
"""A record as plain data, as it is kept until it becomes rows."""


def tables(records: Sequence[Plain]) -> dict[str, pa.Table]:
    """Rows of every log that the records fill.

    Args:
        records: plain data of :data:`Record` values (N of them, not validated again).
    """
    by_kind: dict[str, list[Plain]] = {}
    for record in records:
        by_kind.setdefault(str(record["kind"]), []).append(record)
    made = [
        (log, build(by_kind[kind]))
        for kind, builders in _BUILDERS.items()
        if kind in by_kind
        for log, build in builders
    ]
    return {log: table for log, table in made if table.num_rows}


def _requests(records: list[Plain]) -> pa.Table:
    return _columns(records, REQUESTS)


def _exposures(records: list[Plain]) -> pa.Table:
    counts = np.array([len(record["items"]) for record in records])
    per_request = _repeated(records, counts, ("request_id", "user", "rollout", "stage", "arm", "version"), EXPOSURES)
    per_request |= _repeated(records, counts, ("propensity", "time", "features_digest"), EXPOSURES)
    teams = (record["teams"] or [-1] * len(record["items"]) for record in records)
    per_item = {
        "item": _flat(record["items"] for record in records),
        "position": _positions(counts),
        "score": _flat(record["scores"] for record in records),
        "team": _flat(teams),
    }
    return _table({**per_request, **per_item}, EXPOSURES)


def _shadow(records: list[Plain]) -> pa.Table:
    counts = np.array([len(record["items"]) for record in records])
    per_request = _repeated(records, counts, ("request_id", "user", "rollout", "stage", "time"), SHADOW)
    missing = (record["challenger_scores"] or [None] * len(record["items"]) for record in records)
    per_item = {
        "item": _flat(record["items"] for record in records),
        "position": _positions(counts),
        "champion_score": _flat(record["champion_scores"] for record in records),
        "challenger_score": _flat(missing),
    }
    return _table({**per_request, **per_item}, SHADOW)


def _shadow_requests(records: list[Plain]) -> pa.Table:
    told = [
        record
        | {
            "features": None
            if record["features"] is None
            else [{"name": name, "known": known} for name, known in record["features"].items()]
        }
        for record in records
    ]
    return _columns(told, SHADOW_REQUESTS)


def _beats(records: list[Plain]) -> pa.Table:
    return _columns(records, BEATS)


_BUILDERS: dict[str, tuple[tuple[str, Callable[[list[Plain]], pa.Table]], ...]] = {
    "answered": (("requests", _requests), ("exposures", _exposures)),
    "shadowed": (("shadow", _shadow), ("shadow_requests", _shadow_requests)),
    "beat": (("beats", _beats),),
}
"""Which rows each kind of record becomes."""


def _columns(records: list[Plain], schema: pa.Schema) -> pa.Table:
    return _table({field.name: [record[field.name] for record in records] for field in schema}, schema)


def _repeated(records: list[Plain], counts: np.ndarray, names: tuple[str, ...], schema: pa.Schema) -> Plain:
    """Columns that all items of a request share, written once and repeated."""
    rows = pa.array(np.repeat(np.arange(len(records)), counts))
    return {
        name: pa.array([record[name] for record in records], type=schema.field(name).type).take(rows) for name in names
    }


def _positions(counts: np.ndarray) -> np.ndarray:
    starts = np.cumsum(counts) - counts
    positions: np.ndarray = np.arange(int(counts.sum())) - np.repeat(starts, counts) + 1
    return positions


def _flat(lists: Iterable[Sequence[Any]]) -> list[Any]:
    return [cell for some in lists for cell in some]


def _table(columns: Plain, schema: pa.Schema) -> pa.Table:
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], type=field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
