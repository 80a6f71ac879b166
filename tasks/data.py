"""Read the log into an immutable snapshot, give its rows their features, and cut it by time.

Nothing passes by open file or local handle: every result names a URI that any worker can read.
"""

import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from ranking.errors import EmptyWindow, MissingColumn, SettingsError
from ranking.features import Feature, FeatureSpec, Schema, resolve
from ranking.fingerprint import fingerprint
from ranking.history import OBSERVED, with_history
from ranking.interactions import canonical, check_not_future, check_rows, check_types
from ranking.results import FeatureTable, Snapshot, Split
from ranking.split import EPOCH, SplitKnobs, split_by_time
from ranking.times import Window, as_utc
from ranking.values import digest
from settings.effects import DataKnobs
from tasks.adapters.storage import storage_error
from tasks.adapters.warehouse import Warehouse, open_warehouse
from tasks.resuming import RESUMED
from tasks.retries import RETRY

if TYPE_CHECKING:
    import ibis.expr.types as ir

logger = logging.getLogger("feedloop.data")

ROW_ID = "row_id"


@task(name="take snapshot", timeout_seconds=6 * 3600, **RETRY.options, **RESUMED)
def take_snapshot(
    *, data: DataKnobs, cutoff: datetime | None, now: datetime, workspace: str, also: tuple[Feature, ...] = ()
) -> Snapshot:
    """Copy the window's rows, validated, to a place named after their content.

    Args:
        data: where the log is, its roles, and how far back to read.
        cutoff: rows before this moment; without one, up to and including the newest row.
        now: the present; a row after it is an error.
        workspace: the snapshot goes to ``snapshots/<fingerprint>`` under it.
        also: columns that another model reads, kept if the log has them.

    Raises:
        DataError: the log cannot be used; the message says which column, how many rows, and shows three.
        StorageError: the workspace cannot be written; then nothing is left there.
    """
    with open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        log = engine.read(data.uri)
        schema = resolve(data.columns, log.columns)
        _check_names(schema)
        kept = schema.model_copy(update={"features": _merged(schema, also, log.columns)})
        check_types(log, kept)
        rows = canonical(log, kept)
        check_not_future(rows, schema, now=now)
        cutoff = _after_newest(rows, schema) if cutoff is None else _utc(cutoff)
        window = Window(start=cutoff - timedelta(days=data.window_days), end=cutoff)
        # One copy: what is checked is what is kept, even while the log is being written.
        recent = engine.stage(_within(rows, schema, window))
        check_rows(recent, schema, window=window, log_rows=int(rows.count().execute()))
        snapshot = _published(engine, recent, schema, window, workspace)
    logger.info(
        "Snapshot %s: %s rows, %s users, %s items until %s",
        snapshot.fingerprint[:16],
        f"{snapshot.rows:,}",
        f"{snapshot.users:,}",
        f"{snapshot.items:,}",
        as_utc(cutoff),
    )
    return snapshot


@task(name="build features", timeout_seconds=6 * 3600, **RETRY.options, **RESUMED)
def build_features(*, snapshot: Snapshot, spec: FeatureSpec, workspace: str, warehouse: str) -> FeatureTable:
    """Give the snapshot's rows every feature that a specification asks for.

    The table is named after the snapshot and the specification; an earlier one of that name is used again.

    Args:
        snapshot: the rows.
        spec: what a model reads; not necessarily the model of this run.
        workspace: the table goes to ``features`` under it.
        warehouse: the engine that builds it.

    Raises:
        MissingColumn: the specification reads a column that the snapshot does not have.
        StorageError: the workspace cannot be written, or memory and temporary disk do not suffice.
    """
    uri = f"{workspace}/features/{snapshot.fingerprint[:16]}-{digest(spec)[:16]}.parquet"
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.exists(path):
        with open_warehouse(warehouse) as engine, engine.guard(snapshot.uri):
            rows = engine.read(f"{snapshot.uri}/rows.parquet")
            _require(spec, rows.columns)
            engine.write(with_history(rows, spec, engine.stage).order_by(ROW_ID), uri)
    return FeatureTable(uri=uri, snapshot_fingerprint=snapshot.fingerprint, rows=snapshot.rows, spec=spec)


@task(name="plan split", timeout_seconds=3600, **RETRY.options, **RESUMED)
def plan_split(*, features: FeatureTable, cutoff: datetime, knobs: SplitKnobs) -> Split:
    """Cut the rows by time into train, validation and holdout.

    Raises:
        SplitError: a part would have too few rows.
    """
    time = features.spec.log.time
    times = np.sort(_read(features.uri, [time])[time].cast(pa.int64()).to_numpy())
    return split_by_time(times, cutoff=cutoff, knobs=knobs, label_delay_hours=features.spec.label_delay_hours)


def load_rows(features: FeatureTable, window: Window, columns: list[str] | None = None) -> pa.Table:
    """The rows of a window, in ``row_id`` order."""
    import pyarrow.dataset as ds

    zone = pa.timestamp("us", tz="UTC")
    time = ds.field(features.spec.log.time)
    inside = (time >= pa.scalar(window.start, zone)) & (time < pa.scalar(window.end, zone))
    rows = _read(features.uri, columns, inside)
    return rows if columns is not None and ROW_ID not in columns else rows.sort_by(ROW_ID)


def moment_at_share(data: DataKnobs, share: float) -> datetime:
    """The moment before which ``share`` of the log's newest window lies.

    Raises:
        DataError: the log cannot be read.
    """
    import ibis

    with open_warehouse(data.warehouse) as engine, engine.guard(data.uri):
        log = engine.read(data.uri)
        schema = resolve(data.columns, log.columns)
        check_types(log, schema)
        rows = canonical(log, schema)
        newest = _after_newest(rows, schema)
        recent = _within(rows, schema, Window(start=newest - timedelta(days=data.window_days), end=newest))
        passed = recent[schema.time].delta(ibis.literal(EPOCH), unit="microsecond")
        return EPOCH + timedelta(microseconds=int(recent.aggregate(at=passed.quantile(share)).execute()["at"].iloc[0]))


@dataclass(frozen=True)
class Column:
    """What one look at a column tells.  ``kind``: text, integer, float, boolean, time or other."""

    name: str
    kind: str
    distinct: int


def describe_log(uri: str, warehouse: str = "duckdb://?memory_limit=2GB") -> tuple[list[Column], datetime | None]:
    """Look at a log of which nothing is known yet.

    Args:
        uri: where it is.
        warehouse: the engine that reads it.

    Returns:
        Its columns in order, with about how many different values each has, and the latest moment in its first
        column of times (``None`` without one).

    Raises:
        DataError: the log cannot be read.
    """
    with open_warehouse(warehouse) as engine, engine.guard(uri):
        log = engine.read(uri)
        counts = log.aggregate(**{name: log[name].approx_nunique() for name in log.columns}).execute().iloc[0]
        columns = [Column(name, _kind(kind), int(counts[name])) for name, kind in log.schema().items()]
        times = [column.name for column in columns if column.kind == "time"]
        if not times:
            return columns, None
        newest = log.aggregate(at=log[times[0]].cast("timestamp('UTC', 6)").max()).execute()["at"].iloc[0]
    return columns, None if pd.isna(newest) else newest.to_pydatetime()


def _kind(kind: Any) -> str:
    if kind.is_timestamp() or kind.is_date():
        return "time"
    if kind.is_floating() or kind.is_decimal():
        return "float"
    named = {"text": kind.is_string(), "integer": kind.is_integer(), "boolean": kind.is_boolean()}
    return next((name for name, fits in named.items() if fits), "other")


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check_names(schema: Schema) -> None:
    taken = [name for name in schema.kept if name in (ROW_ID, OBSERVED)]
    if taken:
        raise SettingsError(
            f"The column {taken[0]!r} is named under [data.columns], but feedloop keeps that name for itself. "
            "Rename the column in the data."
        )


def _require(spec: FeatureSpec, available: tuple[str, ...]) -> None:
    attributes = (column for key in spec.history_keys for column in key.columns)
    missing = [name for name in dict.fromkeys((*spec.log.columns, *attributes)) if name not in available]
    if missing:
        raise MissingColumn(
            f"The model reads {', '.join(map(repr, missing))}, which the snapshot does not have. It has: "
            f"{', '.join(available)}. Name the columns under [data.columns], or bring data that have them."
        )


def _merged(schema: Schema, also: tuple[Feature, ...], available: tuple[str, ...]) -> tuple[Feature, ...]:
    """This run's features, and what the other model reads besides."""
    taken = set(schema.kept)
    return (*schema.features, *(f for f in also if f.name not in taken and f.name in available))


def _after_newest(rows: "ir.Table", schema: Schema) -> datetime:
    newest = rows.aggregate(at=rows[schema.time].max()).execute()["at"].iloc[0]
    if pd.isna(newest):
        raise EmptyWindow(f"The log has no row with a time in column {schema.time!r}. Bring data, or another column.")
    moment: datetime = newest.to_pydatetime()
    return moment + timedelta(microseconds=1)


def _within(rows: "ir.Table", schema: Schema, window: Window) -> "ir.Table":
    import ibis

    time = rows[schema.time]
    return rows.filter((time >= ibis.literal(window.start)) & (time < ibis.literal(window.end)))


def _published(engine: Warehouse, rows: "ir.Table", schema: Schema, window: Window, workspace: str) -> Snapshot:
    """Write, digest what was written, and only then give it its name; an identical snapshot is used again."""
    import ibis

    # The key is unique, so the order is the same whatever the files' order was.
    order = list(dict.fromkeys((schema.time, *schema.key)))
    labelled = rows.mutate(**{schema.label: rows[schema.label].cast("int8")})
    numbered = labelled.mutate(**{ROW_ID: ibis.row_number().over(order_by=order)})
    draft = f"{workspace}/snapshots/.{uuid.uuid4().hex}.parquet"
    engine.write(numbered.select(ROW_ID, *rows.columns).order_by(ROW_ID), draft)
    filesystem, path = fsspec.core.url_to_fs(draft)
    manifest = f"{path}.json"
    try:
        with filesystem.open(path, "rb") as stream:
            file = pq.ParquetFile(stream)
            mark = fingerprint(file.schema_arrow, file.iter_batches(batch_size=65_536))
        facts = rows.aggregate(
            rows=rows.count(),
            users=rows[schema.user].nunique(),
            items=rows[schema.item].nunique(),
            positives=(rows[schema.label] == 1).sum(),
        ).execute()
        counts = {name: int(facts[name].iloc[0]) for name in ("rows", "users", "items", "positives")}
        uri = f"{workspace}/snapshots/{mark[:16]}"
        snapshot = Snapshot(uri=uri, fingerprint=mark, window=window, cutoff=window.end, log=schema, **counts)
        folder = filesystem._strip_protocol(uri)
        filesystem.makedirs(folder, exist_ok=True)
        if not filesystem.exists(f"{folder}/rows.parquet"):
            filesystem.mv(path, f"{folder}/rows.parquet")
        # The manifest comes last.  Under a name of its own first: two runs may be at the same snapshot.
        if not filesystem.exists(f"{folder}/snapshot.json"):
            filesystem.pipe_file(manifest, snapshot.model_dump_json(indent=2).encode())
            filesystem.mv(manifest, f"{folder}/snapshot.json")
    except OSError as error:
        raise storage_error(
            f"The snapshot cannot be written to {workspace}: {error}. Check its rights and disk.", error
        ) from error
    finally:
        for draft in (path, manifest):
            if filesystem.exists(draft):
                filesystem.rm(draft)
    return snapshot


def _read(uri: str, columns: list[str] | None, rows: Any = None) -> pa.Table:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return pq.read_table(path, columns=columns, filters=rows, filesystem=filesystem)
