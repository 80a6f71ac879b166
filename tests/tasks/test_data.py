"""A snapshot is its content; features and split follow from it; nothing half-done is left anywhere."""

import json
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ranking.errors import (
    DataError,
    EmptyWindow,
    InvalidInteractions,
    MissingColumn,
    SettingsError,
    StorageError,
    UnreadableData,
)
from ranking.features import ColumnKnobs, Feature, FeatureGroup, FeatureSpec, HistoryKnobs, Kind, Owner
from ranking.results import Snapshot
from ranking.split import SplitKnobs
from ranking.times import Window
from settings.effects import DataKnobs
from tasks.data import (
    Column,
    build_features,
    describe_log,
    load_rows,
    moment_at_share,
    plan_split,
    take_snapshot,
)

NOW = datetime(2026, 2, 1, tzinfo=UTC)
START = NOW - timedelta(days=20)
ENGINE = "duckdb://?memory_limit=500MB&threads=1"
ROLES = ColumnKnobs(
    user_features=FeatureGroup(categorical=("user_device",)), item_features=FeatureGroup(numeric=("item_price",))
)


def log(rows: int = 400) -> pa.Table:
    """One row an hour and user: the key is unique, and every instant has two rows."""
    rng = np.random.default_rng(0)
    times = [START + timedelta(hours=number // 2) for number in range(rows)]
    return pa.table(
        {
            "user_id": np.arange(rows) % 2 + 10 * (np.arange(rows) // 2 % 5),
            "item_id": [f"item {number}" for number in rng.integers(0, 20, rows)],
            "timestamp": pa.array(times, pa.timestamp("us", tz="UTC")),
            "click": rng.integers(0, 2, rows).astype(np.int8),
            "user_device": pa.array(rng.choice(["phone", "desktop"], rows).tolist()),
            "item_price": pa.array([None if number % 7 == 0 else number / 2 for number in range(rows)]),
        }
    )


def put(path: Path, rows: pa.Table, **options: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, **options)
    return str(path)


def knobs(uri: str, **changes: object) -> DataKnobs:
    return DataKnobs.model_validate({"uri": uri, "columns": ROLES, "warehouse": ENGINE, **changes})


def snapshot_of(uri: str, workspace: Path | str, cutoff: datetime | None = None, **changes: object) -> Snapshot:
    return take_snapshot.fn(data=knobs(uri, **changes), cutoff=cutoff, now=NOW, workspace=str(workspace))


def spec(snapshot: Snapshot, **history: object) -> FeatureSpec:
    return FeatureSpec(log=snapshot.log, history=HistoryKnobs.model_validate(history))


@pytest.fixture
def source(tmp_path: Path) -> str:
    return put(tmp_path / "log.parquet", log())


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


def test_a_snapshot_tells_what_it_holds(source: str, workspace: Path) -> None:
    snapshot = snapshot_of(source, workspace)
    rows = log()
    assert (snapshot.rows, snapshot.users, snapshot.items) == (400, 10, 20)
    assert snapshot.positives == int(np.sum(rows["click"].to_numpy()))
    newest = START + timedelta(hours=199)
    assert snapshot.cutoff == snapshot.window.end == newest + timedelta(microseconds=1)
    assert snapshot.uri == f"{workspace}/snapshots/{snapshot.fingerprint[:16]}"
    manifest = Snapshot.model_validate_json((Path(snapshot.uri) / "snapshot.json").read_text())
    assert manifest == snapshot


def test_the_stored_rows_are_the_logs_in_canonical_types_and_order(source: str, workspace: Path) -> None:
    stored = pq.read_table(f"{snapshot_of(source, workspace).uri}/rows.parquet")
    assert {field.name: str(field.type) for field in stored.schema} == {
        "row_id": "int64",
        "user_id": "int64",
        "item_id": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "click": "int8",
        "user_device": "string",
        "item_price": "double",
    }
    expected = log().to_pandas().sort_values(["timestamp", "user_id", "item_id"], ignore_index=True)
    assert stored["row_id"].to_pylist() == list(range(400))
    pd.testing.assert_frame_equal(stored.drop(["row_id"]).to_pandas(), expected, check_dtype=False)


def test_layout_and_order_of_the_source_do_not_change_the_fingerprint(source: str, workspace: Path) -> None:
    rows = log()
    shuffled = rows.take(np.random.default_rng(1).permutation(len(rows))).select(rows.column_names[::-1])
    folder = workspace.parent / "parts"
    ds.write_dataset(shuffled, folder, format="parquet", max_rows_per_file=97, max_rows_per_group=50)
    naive = rows.set_column(
        2, "timestamp", rows["timestamp"].cast(pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("ms"))
    )
    other = put(workspace.parent / "other.parquet", naive, version="1.0", compression="gzip", row_group_size=33)
    marks = {snapshot_of(uri, workspace).fingerprint for uri in (source, str(folder), other)}
    assert len(marks) == 1
    assert len(list((workspace / "snapshots").iterdir())) == 1


@pytest.mark.parametrize("column", ["click", "item_price", "user_device", "item_id"])
def test_one_changed_value_changes_the_fingerprint(source: str, workspace: Path, column: str) -> None:
    frame = log().to_pandas()
    frame.loc[57, column] = {"click": 1 - frame["click"][57], "item_price": 0.25}.get(column, "another")
    changed = put(workspace.parent / "changed.parquet", pa.Table.from_pandas(frame, schema=log().schema))
    assert snapshot_of(source, workspace).fingerprint != snapshot_of(changed, workspace).fingerprint


def test_an_existing_snapshot_is_used_again_and_not_written_again(source: str, workspace: Path) -> None:
    first = snapshot_of(source, workspace)
    before = {file.name: file.stat().st_mtime_ns for file in Path(first.uri).iterdir()}
    assert snapshot_of(source, workspace) == first
    assert {file.name: file.stat().st_mtime_ns for file in Path(first.uri).iterdir()} == before


def test_the_window_ends_before_the_cut_off_and_begins_on_its_first_instant(source: str, workspace: Path) -> None:
    cutoff = START + timedelta(hours=100)
    snapshot = snapshot_of(source, workspace, cutoff=cutoff, window_days=2)
    times = pq.read_table(f"{snapshot.uri}/rows.parquet")["timestamp"].to_pylist()
    assert snapshot.window == Window(start=cutoff - timedelta(days=2), end=cutoff)
    assert (min(times), max(times)) == (cutoff - timedelta(days=2), cutoff - timedelta(hours=1))
    assert snapshot.rows == 96


def test_a_cut_off_without_a_zone_means_utc(source: str, workspace: Path) -> None:
    naive = snapshot_of(source, workspace, cutoff=(START + timedelta(days=3)).replace(tzinfo=None))
    assert naive.cutoff == START + timedelta(days=3)


def test_a_broken_row_outside_the_window_does_not_matter(workspace: Path) -> None:
    frame = log().to_pandas()
    frame.loc[0, "user_device"] = None
    frame.loc[1, "click"] = 7
    uri = put(workspace.parent / "log.parquet", pa.Table.from_pandas(frame, schema=log().schema))
    assert snapshot_of(uri, workspace, window_days=2).rows == 96
    with pytest.raises(InvalidInteractions, match="'click' is neither 0 nor 1 in 1 of 400 rows"):
        snapshot_of(uri, workspace)


def _without(column: str) -> pa.Table:
    return log().drop([column])


def _with_future_row() -> pa.Table:
    frame = log().to_pandas()
    frame.loc[399, "timestamp"] = pd.Timestamp(NOW + timedelta(seconds=1))
    return pa.Table.from_pandas(frame, schema=log().schema)


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        (_without("click"), MissingColumn, r"no column 'click' \(data.columns.label\)"),
        (_without("item_price"), MissingColumn, "no column 'item_price'"),
        (log().set_column(3, "click", pa.array([0] * 400)), InvalidInteractions, "'click' is 0 in all 400 rows"),
        (pa.concat_tables([log(), log().slice(0, 5)]), InvalidInteractions, "5 of 405 rows repeat the key"),
        (_with_future_row(), InvalidInteractions, r"'timestamp' lies in the future .* in 1 of 400 rows"),
        (log().slice(0, 0), EmptyWindow, "no row with a time"),
        (log().append_column("row_id", pa.array(range(400))), None, ""),
    ],
)
def test_a_bad_log_is_refused_and_leaves_nothing(
    workspace: Path, rows: pa.Table, error: type[DataError] | None, says: str
) -> None:
    uri = put(workspace.parent / "bad.parquet", rows)
    if error is None:
        # A column that nobody asked for is nobody's problem.
        assert "row_id" in pq.read_schema(f"{snapshot_of(uri, workspace).uri}/rows.parquet").names
        return
    with pytest.raises(error, match=says):
        snapshot_of(uri, workspace)
    assert not [path for path in workspace.rglob("*") if path.is_file()]


def test_a_corrupt_log_is_refused_by_the_name_of_its_file(workspace: Path) -> None:
    put(workspace.parent / "log/a.parquet", log())
    (workspace.parent / "log/b.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(UnreadableData, match=r"b\.parquet"):
        snapshot_of(str(workspace.parent / "log"), workspace)
    assert not workspace.exists()


def test_a_workspace_that_cannot_be_written_is_said(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        snapshot_of(source, tmp_path / "file/workspace")


def test_a_column_with_a_name_that_feedloop_needs_is_refused_by_that_name(source: str, workspace: Path) -> None:
    uri = put(workspace.parent / "log2.parquet", log().append_column("row_id", pa.array(np.arange(400.0))))
    columns = ColumnKnobs(item_features=FeatureGroup(numeric=("row_id",)))
    with pytest.raises(SettingsError, match=r"'row_id' is named under .*keeps that name for itself"):
        snapshot_of(uri, workspace, columns=columns)


def test_another_models_columns_are_kept_but_are_not_this_runs_features(source: str, workspace: Path) -> None:
    data = knobs(source, columns=ColumnKnobs())
    also = (
        Feature(name="item_price", owner=Owner.ITEM, kind=Kind.NUMERIC),
        Feature(name="item_gone", owner=Owner.ITEM, kind=Kind.NUMERIC),
    )
    snapshot = take_snapshot.fn(data=data, cutoff=None, now=NOW, workspace=str(workspace), also=also)
    assert snapshot.log.features == ()
    assert "item_price" in pq.read_schema(f"{snapshot.uri}/rows.parquet").names


def _take(source: str, workspace: str) -> str:
    return snapshot_of(source, workspace).fingerprint


@pytest.mark.slow
def test_two_processes_may_take_the_same_snapshot_at_once(source: str, workspace: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        marks = [pool.submit(_take, source, str(workspace)) for _ in range(4)]
        assert len({mark.result() for mark in marks}) == 1
    (folder,) = (workspace / "snapshots").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["rows.parquet", "snapshot.json"]
    assert json.loads((folder / "snapshot.json").read_text())["rows"] == 400


def test_everything_works_in_an_object_store(source: str) -> None:
    try:
        snapshot = snapshot_of(source, "memory://team/workspace")
        table = build_features.fn(
            snapshot=snapshot, spec=spec(snapshot), workspace="memory://team/workspace", warehouse=ENGINE
        )
        filesystem = fsspec.filesystem("memory")
        assert len(filesystem.find("/team/workspace")) == 3
        assert load_rows(table, snapshot.window).num_rows == 400
    finally:
        MemoryFileSystem.store.clear()


def test_features_have_every_column_of_the_specification_in_row_order(source: str, workspace: Path) -> None:
    snapshot = snapshot_of(source, workspace)
    wanted = spec(snapshot, item_attributes=(), windows_days=(7,))
    table = build_features.fn(snapshot=snapshot, spec=wanted, workspace=str(workspace), warehouse=ENGINE)
    rows = pq.read_table(table.uri)
    assert rows["row_id"].to_pylist() == list(range(400))
    assert rows.column_names == ["row_id", *wanted.log.columns, *(f.name for f in wanted.history_features)]
    assert {str(rows.schema.field(f.name).type) for f in wanted.history_features} == {"double"}
    # Every user is seen every fifth hour.
    assert rows["hist_user_impressions"].to_pylist() == [number // 10 for number in range(400)]


def test_another_specification_gets_a_table_of_its_own_and_the_same_one_is_used_again(
    source: str, workspace: Path
) -> None:
    snapshot = snapshot_of(source, workspace)
    one, two, three = (
        build_features.fn(snapshot=snapshot, spec=wanted, workspace=str(workspace), warehouse=ENGINE)
        for wanted in (spec(snapshot), spec(snapshot, grain="day"), spec(snapshot))
    )
    assert one == three
    assert one.uri != two.uri
    assert len(list((workspace / "features").iterdir())) == 2


def test_a_model_that_reads_a_column_the_snapshot_lacks_is_told_which(source: str, workspace: Path) -> None:
    snapshot = snapshot_of(source, workspace)
    wanted = spec(snapshot, item_attributes=("item_kind",))
    with pytest.raises(MissingColumn, match="reads 'item_kind', which the snapshot does not have"):
        build_features.fn(snapshot=snapshot, spec=wanted, workspace=str(workspace), warehouse=ENGINE)
    assert not (workspace / "features").exists()


def test_a_window_of_rows_is_half_open_and_the_parts_of_a_split_add_up(source: str, workspace: Path) -> None:
    snapshot = snapshot_of(source, workspace)
    table = build_features.fn(snapshot=snapshot, spec=spec(snapshot), workspace=str(workspace), warehouse=ENGINE)
    split = plan_split.fn(features=table, cutoff=snapshot.cutoff, knobs=SplitKnobs(min_rows=10))
    parts = [load_rows(table, window) for window in (split.train, split.validation, split.holdout)]
    assert [part.num_rows for part in parts] == [split.train_rows, split.validation_rows, split.holdout_rows]
    assert pa.concat_tables(parts)["row_id"].to_pylist() == list(range(400))
    assert split.holdout_rows == 80


def test_a_moment_splits_the_log_by_rows(source: str) -> None:
    moment = moment_at_share(knobs(source), 0.25)
    times = log()["timestamp"].to_pylist()
    assert sum(time < moment for time in times) / len(times) == pytest.approx(0.25, abs=0.01)


def test_a_log_is_described_by_kind_and_variety(source: str, workspace: Path) -> None:
    rows = log().append_column("flag", pa.array([True, False] * 200)).append_column("tags", pa.array([["a"]] * 400))
    columns, newest = describe_log(put(workspace.parent / "wide.parquet", rows), ENGINE)
    kinds = {column.name: column.kind for column in columns}
    assert kinds == {
        "user_id": "integer",
        "item_id": "text",
        "timestamp": "time",
        "click": "integer",
        "user_device": "text",
        "item_price": "float",
        "flag": "boolean",
        "tags": "other",
    }
    assert Column("click", "integer", 2) in columns
    assert newest == START + timedelta(hours=199)


def test_a_log_without_times_has_no_newest_row(workspace: Path) -> None:
    assert describe_log(put(workspace.parent / "x.parquet", pa.table({"a": [1]})), ENGINE)[1] is None
