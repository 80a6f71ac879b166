"""History features are what was known strictly before, whatever engine, order or later rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from math import isnan
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ibis.backends.sql.compilers import PostgresCompiler

from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, resolve
from ranking.history import with_history

ROLES = ColumnKnobs(item_features=FeatureGroup(categorical=("item_kind",)))
LOG = resolve(ROLES, ["user_id", "item_id", "timestamp", "click", "item_kind"])
TYPES = {
    "user_id": "string",
    "item_id": "string",
    "timestamp": "timestamp('UTC', 6)",
    "click": "int8",
    "item_kind": "string",
    "observed": "boolean",
    "row_id": "int64",
}
SCHEMA = ibis.schema(TYPES).to_pyarrow()
# Around midnight and before 1970, where rounding towards zero and flooring differ.
START = datetime(1969, 12, 31, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def spec(**history: object) -> FeatureSpec:
    delay = history.pop("label_delay_hours", 0.0)
    knobs = HistoryKnobs.model_validate({"item_attributes": ("item_kind",), **history})
    return FeatureSpec(log=LOG, history=knobs, label_delay_hours=delay)


# Delays shorter than, as long as and longer than a window and a day.
SPECS = st.sampled_from(
    [
        spec(),
        spec(label_delay_hours=5, windows_days=(1, 3)),
        spec(label_delay_hours=30, windows_days=(1,), prior_impressions=0.5),
        spec(grain="day", windows_days=(1, 3)),
        spec(grain="day", label_delay_hours=5.5, user_by_attribute=False),
        spec(grain="day", label_delay_hours=24, windows_days=(1,), prior_impressions=0.5),
    ]
)


@st.composite
def logs(draw: st.DrawFn) -> pd.DataFrame:
    """Few users, items and instants, so that ties, midnights and window edges are common."""
    row = st.tuples(
        st.sampled_from("uv"),
        st.sampled_from("ij"),
        st.one_of(st.integers(0, 5 * 24 * 2).map(lambda n: n * 1800 * 1_000_000), st.integers(0, 5 * 86_400_000_000)),
        st.integers(0, 1),
        st.sampled_from(["news", "sport", None]),
        st.sampled_from([True, True, True, False]),
    )
    rows = draw(st.lists(row, min_size=1, max_size=25))
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "offset", "click", "item_kind", "observed"])
    frame["timestamp"] = (pd.Timestamp(START) + pd.to_timedelta(frame["offset"], unit="us")).astype(
        "datetime64[us, UTC]"
    )
    frame["item_kind"] = frame["item_kind"].astype("string")
    frame["row_id"] = np.arange(len(frame))
    return frame.drop(columns="offset")


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@cache
def compiled(wanted: FeatureSpec, columns: tuple[str, ...]) -> str:
    """The query for tables with these columns; making it takes longer than running it on a few rows."""
    rows = ibis.table({name: TYPES[name] for name in columns}, name="log")
    return str(ibis.to_sql(with_history(rows, wanted), dialect="duckdb"))


def features(engine: duckdb.DuckDBPyConnection, rows: pd.DataFrame, wanted: FeatureSpec) -> pd.DataFrame:
    """History by row_id."""
    columns = tuple(rows.columns)
    engine.register("log", pa.Table.from_pandas(rows, schema=pa.schema([SCHEMA.field(name) for name in columns])))
    table = engine.execute(compiled(wanted, columns)).to_arrow_table().to_pandas()
    return table.set_index("row_id").sort_index()[[feature.name for feature in wanted.history_features]]


def oracle(rows: pd.DataFrame, wanted: FeatureSpec) -> pd.DataFrame:
    """The definition, said as plainly as Python can: one row, one key, one loop at a time."""
    everything = rows.to_dict("records")
    past = [row for row in everything if row["observed"]]
    delay = timedelta(hours=wanted.label_delay_hours)
    result = {}
    for row in everything:
        midnight = row["timestamp"].floor("D")
        t = midnight if wanted.history.grain == "day" else row["timestamp"]
        known = [r for r in past if r["timestamp"] + delay < midnight]
        prior = (sum(r["click"] for r in known) + 1.0) / (len(known) + 2.0)
        result[row["row_id"]] = {}
        for key in wanted.history_keys:
            result[row["row_id"]] |= _oracle_of_key(row, past, key, t, delay, prior, wanted)
    names = [feature.name for feature in wanted.history_features]
    return pd.DataFrame.from_dict(result, orient="index", dtype=float)[names].sort_index()


def _oracle_of_key(row, past, key, t, delay, prior, wanted):  # type: ignore[no-untyped-def]
    name, strength = f"hist_{key.name}", wanted.history.prior_impressions
    values = {}
    missing = any(pd.isna(row[column]) for column in key.columns)
    same = [
        r
        for r in past
        if all(r[column] is row[column] or r[column] == row[column] for column in key.columns if not missing)
    ]
    for days in (None, *wanted.history.windows_days):
        suffix = "" if days is None else f"_{days}d"
        inside = [r for r in same if r["timestamp"] < t and (days is None or t - days * DAY <= r["timestamp"])]
        known = [r for r in inside if r["timestamp"] + delay < t]
        clicks = sum(r["click"] for r in known)
        values[f"{name}_impressions{suffix}"] = float(len(inside))
        values[f"{name}_ctr{suffix}"] = (clicks + strength * prior) / (len(known) + strength)
        if days is None:
            last = max((r["timestamp"] for r in inside), default=None)
            values[f"{name}_recency_hours"] = float("nan") if last is None else (t - last) / HOUR
    return dict.fromkeys(values, float("nan")) if missing else values


PROPERTY = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(rows=logs(), wanted=SPECS)
def test_every_feature_is_what_a_plain_loop_over_the_definition_gives(
    engine: duckdb.DuckDBPyConnection, rows: pd.DataFrame, wanted: FeatureSpec
) -> None:
    pd.testing.assert_frame_equal(
        features(engine, rows, wanted), oracle(rows, wanted), check_names=False, rtol=0, atol=0, check_index_type=False
    )


@PROPERTY
@given(rows=logs(), wanted=SPECS, which=st.integers(0, 24))
def test_a_row_keeps_its_history_when_all_later_and_simultaneous_rows_are_removed(
    engine: duckdb.DuckDBPyConnection, rows: pd.DataFrame, wanted: FeatureSpec, which: int
) -> None:
    row = rows.iloc[which % len(rows)]
    earlier = rows[(rows["timestamp"] < row["timestamp"]) | (rows["row_id"] == row["row_id"])]
    whole = features(engine, rows, wanted).loc[row["row_id"]]
    alone = features(engine, earlier, wanted).loc[row["row_id"]]
    pd.testing.assert_series_equal(alone, whole, rtol=0, atol=0)


@PROPERTY
@given(rows=logs(), wanted=SPECS, seed=st.integers(0, 100))
def test_the_order_of_rows_does_not_matter(
    engine: duckdb.DuckDBPyConnection, rows: pd.DataFrame, wanted: FeatureSpec, seed: int
) -> None:
    shuffled = rows.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(features(engine, shuffled, wanted), features(engine, rows, wanted), rtol=0, atol=0)


@PROPERTY
@given(rows=logs(), wanted=SPECS)
def test_questions_leave_no_trace_in_anybodys_history(
    engine: duckdb.DuckDBPyConnection, rows: pd.DataFrame, wanted: FeatureSpec
) -> None:
    seen = rows[rows["observed"]]
    with_questions = features(engine, rows, wanted).loc[seen["row_id"]]
    pd.testing.assert_frame_equal(
        with_questions, features(engine, seen.drop(columns="observed"), wanted).loc[seen["row_id"]], rtol=0, atol=0
    )


def log(*rows: tuple[str, str, float, int | None, str | None]) -> pd.DataFrame:
    """user, item, hours since a midnight, click, kind."""
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "hours", "click", "item_kind"])
    frame["timestamp"] = pd.Timestamp("2026-01-05", tz="UTC") + pd.to_timedelta(frame["hours"], unit="h")
    frame["item_kind"] = frame["item_kind"].astype("string")
    return frame.drop(columns="hours").assign(row_id=range(len(frame)))


def test_the_first_row_has_no_past_and_the_uninformed_click_rate(engine: duckdb.DuckDBPyConnection) -> None:
    first = features(engine, log(("u", "i", 1, 1, "news")), spec()).loc[0]
    assert first["hist_user_impressions"] == 0
    assert first["hist_user_ctr"] == 0.5
    assert isnan(first["hist_user_recency_hours"])


def test_a_click_that_is_not_known_yet_does_not_count(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(("u", "i", 1, 1, "news"), ("u", "i", 3, 0, "news"), ("u", "i", 3.5, 0, "news"))
    got = features(engine, rows, spec(label_delay_hours=2, prior_impressions=1))
    assert got["hist_user_impressions"].tolist() == [0, 1, 2]
    # Known after 3:00, not at 3:00; the prior is 1/2 all day.
    assert got["hist_user_ctr"].tolist() == [0.5, 0.5, (1 + 0.5) / (1 + 1)]


def test_rows_of_one_instant_do_not_see_each_other(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(("u", "i", 1, 1, "news"), ("u", "j", 1, 1, "news"), ("u", "k", 1, 0, "news"))
    assert features(engine, rows, spec())["hist_user_impressions"].tolist() == [0, 0, 0]


def test_the_days_grain_knows_nothing_of_today(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(
        ("u", "i", 1, 1, "news"), ("u", "i", 23, 1, "news"), ("u", "i", 24, 1, "news"), ("u", "i", 30, 1, "news")
    )
    got = features(engine, rows, spec(grain="day"))
    assert got["hist_user_impressions"].tolist() == [0, 0, 2, 2]
    # Hours from the last impression to the midnight that the row looks from, not to the row.
    assert got["hist_user_recency_hours"].tolist()[2:] == [1, 1]


def test_a_window_begins_exactly_its_length_before_the_row(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(("u", "i", 0, 1, "news"), ("u", "i", 24, 0, "news"), ("u", "i", 24.001, 0, "news"))
    got = features(engine, rows, spec(windows_days=(1,)))
    assert got["hist_user_impressions_1d"].tolist() == [0, 1, 1]
    assert got["hist_user_impressions"].tolist() == [0, 1, 2]


def test_a_missing_attribute_has_no_history_but_its_user_has(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(("u", "i", 1, 1, None), ("u", "j", 2, 1, None), ("u", "k", 3, 1, "news"))
    got = features(engine, rows, spec())
    assert got.filter(like="item_kind").loc[[0, 1]].isna().all(axis=None)
    assert got["hist_item_kind_impressions"][2] == 0
    assert got["hist_user_impressions"].tolist() == [0, 1, 2]


def test_a_question_with_a_null_label_gets_features(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log(("u", "i", 1, 1, "news"), ("u", "j", 25, None, "news")).assign(observed=[True, False])
    got = features(engine, rows, spec(prior_impressions=1)).loc[1]
    # One click of one impression before midnight: the prior is 2/3.
    assert got["hist_user_ctr"] == (1 + 2 / 3) / 2


def test_without_history_the_rows_stay_as_they_are() -> None:
    rows = ibis.table(TYPES, name="log")
    assert with_history(rows, spec(enabled=False)).equals(rows)


def test_every_history_column_is_written_as_float64_in_the_order_of_the_specification(tmp_path: Path) -> None:
    wanted = spec(windows_days=(7,), label_delay_hours=1)
    backend = ibis.duckdb.connect(threads=1)
    backend.create_table("log", log(("u", "i", 1, 1, "news")), temp=True)
    backend.to_parquet(with_history(backend.table("log"), wanted), tmp_path / "features.parquet")
    written = pq.read_schema(tmp_path / "features.parquet")
    names = [feature.name for feature in wanted.history_features]
    assert written.names[-len(names) :] == names
    assert {str(written.field(name).type) for name in names} == {"double"}


def test_the_expressions_compile_for_another_engine_as_well() -> None:
    columns = {"user_id": "int64", "item_id": "int64", "timestamp": "timestamp('UTC')", "click": "int8"}
    rows = ibis.table({**columns, "item_kind": "string"}, name="log")
    query = PostgresCompiler().to_sqlglot(with_history(rows, spec(windows_days=(7,)))).sql(dialect="postgres")
    assert "PARTITION BY" in query
