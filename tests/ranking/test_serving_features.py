"""What is looked up at serving time is what training computes: same definitions, same numbers."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ranking.errors import FeaturesError
from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, Owner, resolve
from ranking.history import with_history
from ranking.serving_features import ServingFeatures
from ranking.serving_folder import ITEMS, MANIFEST, USERS, FeaturesManifest, file_names, history_file
from ranking.serving_tables import history_tables, profiles
from ranking.times import Window
from ranking.values import canonical_json

ROLES = ColumnKnobs(
    user_features=FeatureGroup(categorical=("city",)),
    item_features=FeatureGroup(categorical=("kind",), numeric=("price",)),
    context_features=FeatureGroup(categorical=("device",)),
)
LOG = resolve(ROLES, ["user_id", "item_id", "timestamp", "click", "city", "kind", "price", "device"])
TYPES = {
    "user_id": "int64",
    "item_id": "string",
    "timestamp": "timestamp('UTC', 6)",
    "click": "int8",
    "city": "string",
    "kind": "string",
    "price": "float64",
    "device": "string",
}
START = datetime(2026, 1, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)

Question = tuple[int, str, str | None, datetime]
"""User, item, kind and time of a row to score."""


def spec(**history: object) -> FeatureSpec:
    delay = history.pop("label_delay_hours", 0.0)
    knobs = HistoryKnobs.model_validate({"item_attributes": ("kind",), **history})
    return FeatureSpec(log=LOG, history=knobs, label_delay_hours=delay)


MIDNIGHT = START + timedelta(days=3)
MORNING = MIDNIGHT + timedelta(hours=5, minutes=30)
DAILY = spec(grain="day", label_delay_hours=5.5, windows_days=(1, 3))
TABLES = st.sampled_from(
    [
        (spec(label_delay_hours=5, windows_days=(1, 3)), MORNING),
        (spec(label_delay_hours=30, windows_days=(1,), since_start=False, prior_impressions=0.5), MIDNIGHT),
        (DAILY, MORNING),
    ]
)


@st.composite
def logs(draw: st.DrawFn) -> pa.Table:
    """Few users, items and instants, so that ties, midnights and window edges are common."""
    row = st.tuples(
        st.integers(1, 3),
        st.sampled_from("ij"),
        st.one_of(st.integers(0, 5 * 48).map(lambda n: n * 1_800_000_000), st.integers(0, 5 * 86_400_000_000)),
        st.integers(0, 1),
        st.sampled_from(["x", None]),
        st.sampled_from(["news", "sport", None]),
        st.sampled_from([1.0, 2.5, None]),
    )
    return table(draw(st.lists(row, min_size=1, max_size=25, unique_by=lambda one: one[:3])))


def table(rows: list[tuple[int, str, int, int, str | None, str | None, float | None]]) -> pa.Table:
    names = ["user_id", "item_id", "timestamp", "click", "city", "kind", "price"]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns["timestamp"] = [START + timedelta(microseconds=offset) for offset in columns["timestamp"]]
    columns["device"] = ["phone"] * len(rows)
    return pa.table({name: list(columns[name]) for name in TYPES}, ibis.schema(TYPES).to_pyarrow())


def log(*rows: tuple[int, str, float, int, str | None]) -> pa.Table:
    """User, item, hours since the start, click, kind."""
    return table([(u, i, round(hours * 3.6e9), click, "x", kind, 1.0) for u, i, hours, click, kind in rows])


@pytest.fixture(scope="module")
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET timezone = 'UTC'")
        yield connection


@cache
def queries(wanted: FeatureSpec, at: datetime) -> dict[str, str]:
    """The query of each file; writing them takes longer than running them on a few rows."""
    rows = ibis.table(TYPES, name="log")
    before = rows.filter(rows.timestamp < ibis.literal(at))
    tables = {history_file(n): t for n, t in enumerate(history_tables(before, wanted, at, stage=lambda table: table))}
    tables |= {USERS: profiles(before, wanted, Owner.USER), ITEMS: profiles(before, wanted, Owner.ITEM)}
    return {name: str(ibis.to_sql(table, dialect="duckdb")) for name, table in tables.items() if table is not None}


def files_at(
    engine: duckdb.DuckDBPyConnection, rows: pa.Table, wanted: FeatureSpec, at: datetime
) -> dict[str, pa.Table]:
    """The files of a table as of ``at``, from all rows before."""
    engine.register("log", rows)
    return {name: engine.execute(query).to_arrow_table() for name, query in queries(wanted, at).items()}


def served(engine: duckdb.DuckDBPyConnection, rows: pa.Table, wanted: FeatureSpec, at: datetime) -> ServingFeatures:
    manifest = FeaturesManifest(
        spec=wanted, as_of=at, window=Window(start=START - timedelta(days=9), end=at), users=1, items=1, files={}
    )
    return ServingFeatures(manifest, files_at(engine, rows, wanted, at))


ASKED = {name: TYPES[name] for name in ("user_id", "item_id", "kind", "timestamp", "click")} | {
    "observed": "boolean",
    "number": "int64",
}


@cache
def training_query(wanted: FeatureSpec) -> str:
    found = with_history(ibis.table(ASKED, name="rows"), wanted)
    names = [feature.name for feature in wanted.history_features]
    return str(ibis.to_sql(found.filter(~found.observed).order_by("number").select(*names), dialect="duckdb"))


def trained(
    engine: duckdb.DuckDBPyConnection, rows: pa.Table, wanted: FeatureSpec, asked: list[Question]
) -> pd.DataFrame:
    """History of some questions put to ``rows``, as a training computes it."""
    schema = ibis.schema(ASKED).to_pyarrow()
    known = rows.select(schema.names[:5]).append_column("observed", pa.array([True] * len(rows)))
    names = ("user_id", "item_id", "kind", "timestamp")
    questions = [dict(zip(names, one, strict=True)) for one in asked]
    put = [{**question, "observed": False, "number": number} for number, question in enumerate(questions)]
    rows = pa.Table.from_pylist([*known.to_pylist(), *put], schema)
    engine.register("rows", rows)
    return engine.execute(training_query(wanted)).df().astype("float64")


def looked_up(features: ServingFeatures, asked: list[Question]) -> pd.DataFrame:
    names = [feature.name for feature in features.spec.history_features]
    parts = [features.rows(user, [item], {"device": "tv"}, at, {"kind": [kind]}) for user, item, kind, at in asked]
    # One type per column whatever was sent, so that requests can be batched.
    return pa.concat_tables(parts).select(names).to_pandas().astype("float64")


EVERY_KEY = [(u, i, k) for u in (1, 2, 3, 9) for i in ("i", "j", "new") for k in ("news", "sport", "new", None)]
PROPERTY = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def earlier(rows: pa.Table, at: datetime) -> pa.Table:
    return rows.filter(pc.less(rows["timestamp"], pa.scalar(at, pa.timestamp("us", "UTC"))))


@PROPERTY
@given(rows=logs(), made=TABLES)
def test_at_its_moment_a_table_answers_every_key_as_training_does(
    engine: duckdb.DuckDBPyConnection, rows: pa.Table, made: tuple[FeatureSpec, datetime]
) -> None:
    wanted, at = made
    before = earlier(rows, at)
    assume(before.num_rows)
    asked = [(*key, at) for key in EVERY_KEY]
    pd.testing.assert_frame_equal(
        looked_up(served(engine, rows, wanted, at), asked), trained(engine, before, wanted, asked), rtol=0, atol=0
    )


@PROPERTY
@given(rows=logs(), made=st.sampled_from([MIDNIGHT, MORNING]))
def test_at_the_days_grain_a_table_made_during_a_day_answers_all_rows_of_that_day(
    engine: duckdb.DuckDBPyConnection, rows: pa.Table, made: datetime
) -> None:
    assume(earlier(rows, made).num_rows)
    asked = [(*key, MIDNIGHT + timedelta(hours=hour)) for key in EVERY_KEY[::5] for hour in (0, 11.5, 23.999)]
    # Training looks at the whole log, later rows of the same day included.
    pd.testing.assert_frame_equal(
        looked_up(served(engine, rows, DAILY, made), asked), trained(engine, rows, DAILY, asked), rtol=0, atol=0
    )


def test_recency_runs_on_from_the_tables_moment_and_counts_stay(engine: duckdb.DuckDBPyConnection) -> None:
    rows = log((1, "i", 1, 1, "news"), (1, "j", 3.3, 0, "news"), (2, "i", 4, 1, "sport"))
    features = served(engine, rows, spec(), START + 5 * HOUR)
    later = START + timedelta(hours=17, microseconds=333)
    asked = [(1, "i", "news", later), (2, "j", "sport", later)]
    # Nothing happened since, so all of it is what training would compute at the later time.
    pd.testing.assert_frame_equal(looked_up(features, asked), trained(engine, rows, spec(), asked), rtol=0, atol=0)
    busy = pa.concat_tables([rows, log((1, "i", 10, 1, "news"))])
    assert looked_up(features, asked)["hist_user_impressions"].tolist() == [2, 1]
    assert trained(engine, busy, spec(), asked)["hist_user_impressions"].tolist() == [3, 1]


def test_at_the_days_grain_recency_goes_from_midnight_to_midnight(engine: duckdb.DuckDBPyConnection) -> None:
    features = served(engine, log((1, "i", 23, 1, "news")), spec(grain="day"), START + 24 * HOUR)
    hours = [
        looked_up(features, [(1, "i", "news", START + after * HOUR)])["hist_user_recency_hours"].item()
        for after in (24, 47, 48, 71.5)
    ]
    assert hours == [1, 1, 25, 25]


def test_a_request_from_before_the_table_sees_no_negative_recency(engine: duckdb.DuckDBPyConnection) -> None:
    features = served(engine, log((1, "i", 4, 1, "news")), spec(), START + 5 * HOUR)
    assert looked_up(features, [(1, "i", "news", START)])["hist_user_recency_hours"].item() == 1


def test_ids_alone_bring_the_latest_logged_features_and_the_items_own_attribute(
    engine: duckdb.DuckDBPyConnection,
) -> None:
    rows = table(
        [
            (1, "i", 0, 1, "old town", "news", 1.0),
            (1, "i", 3_600_000_000, 1, "new town", "sport", 2.5),
            (2, "j", 0, 0, None, None, None),
        ]
    )
    features = served(engine, rows, spec(), START + 5 * HOUR)
    found = features.look_up(1, ["i", "j", "new"], {"device": None}, START + 6 * HOUR)
    assert found.rows.select(["user_id", "item_id", "city", "kind", "price", "device"]).to_pydict() == {
        "user_id": [1, 1, 1],
        "item_id": ["i", "j", "new"],
        "city": ["new town"] * 3,
        "kind": ["sport", None, None],
        "price": [2.5, None, None],
        "device": [None, None, None],
    }
    # A missing category is not a category: no history, neither alone nor with the user.
    assert found.rows["hist_kind_impressions"].to_pylist() == [1, None, None]
    assert found.rows["hist_user_x_kind_impressions"].to_pylist() == [1, None, None]
    assert found.rows["hist_item_impressions"].to_pylist() == [2, 1, 0]
    assert (found.cells, found.unknown, found.unknown_by_key) == (9, 1, {"user": 0, "item": 1, "kind": 0})


def test_what_the_request_knows_better_wins_and_history_follows_it(engine: duckdb.DuckDBPyConnection) -> None:
    features = served(engine, log((1, "i", 1, 1, "news"), (1, "j", 2, 1, "sport")), spec(), START + 5 * HOUR)
    context = {"device": "tv"}
    found = features.rows(1, ["i", "j"], context, START + 5 * HOUR, {"kind": ["sport", "unheard"], "price": 7})
    assert found["kind"].to_pylist() == ["sport", "unheard"]
    assert found["price"].to_pylist() == [7, 7]
    assert found["hist_kind_impressions"].to_pylist() == [1, 0]
    assert found["hist_user_x_kind_impressions"].to_pylist() == [1, 0]


def test_a_new_user_has_no_impressions_the_feeds_own_click_rate_and_no_recency(
    engine: duckdb.DuckDBPyConnection,
) -> None:
    rows = log((1, "i", 1, 1, "news"), (1, "j", 2, 1, "news"))
    features = served(engine, rows, spec(prior_impressions=10), START + 25 * HOUR)
    found = features.look_up(7, ["i"], {"device": "tv"}, START + 25 * HOUR)
    history = {name: found.rows[f"hist_user_{name}"].to_pylist() for name in ("impressions", "ctr", "recency_hours")}
    # Two clicks of two impressions before midnight: Laplace's 3/4.
    assert history == {"impressions": [0.0], "ctr": [0.75], "recency_hours": [None]}
    assert found.unknown_by_key == {"user": 1, "item": 0, "kind": 0}


@pytest.mark.parametrize("spelling", [1, 1.0, "1", np.int64(1)])
def test_an_id_is_known_in_every_spelling_that_the_encoder_knows(
    engine: duckdb.DuckDBPyConnection, spelling: object
) -> None:
    features = served(engine, log((1, "5", 1, 1, "news")), spec(), START + 5 * HOUR)
    found = features.look_up(spelling, [5, "5", 5.0], {"device": "tv"}, START + 5 * HOUR)  # type: ignore[list-item, arg-type]
    assert found.unknown == 0
    assert found.rows["hist_item_impressions"].to_pylist() == [1, 1, 1]


def test_numbers_and_words_may_be_mixed_among_the_items(engine: duckdb.DuckDBPyConnection) -> None:
    features = served(engine, log((1, "5", 1, 1, "news")), spec(), START + 5 * HOUR)
    found = features.rows(1, [5, "abc"], {"device": "tv"}, START + 5 * HOUR)
    assert found["item_id"].to_pylist() == ["5", "abc"]
    assert found["hist_item_impressions"].to_pylist() == [1, 0]


def test_without_history_only_profiles_are_looked_up_and_counted(engine: duckdb.DuckDBPyConnection) -> None:
    features = served(engine, log((1, "i", 1, 1, "news")), spec(enabled=False), START + 5 * HOUR)
    found = features.look_up(1, ["i", "new"], {"device": "tv"}, START + 5 * HOUR)
    assert set(found.rows.column_names) == {"user_id", "item_id", "city", "kind", "price", "device"}
    assert found.unknown_by_key == {"user": 0, "item": 1}


@pytest.mark.parametrize(
    ("context", "overrides", "says"),
    [
        ({}, None, "lacks the context device"),
        ({"device": "tv", "hat": 1}, None, "sends hat, which the model does not read"),
        ({"device": "tv"}, {"price": [1.0]}, "price has 1 values for 2 items"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_to_send(
    engine: duckdb.DuckDBPyConnection, context: dict[str, object], overrides: dict[str, object] | None, says: str
) -> None:
    features = served(engine, log((1, "i", 1, 1, "news")), spec(), START + 5 * HOUR)
    with pytest.raises(FeaturesError, match=says):
        features.rows(1, ["i", "j"], context, START + 5 * HOUR, overrides)


def on_disk(engine: duckdb.DuckDBPyConnection, folder: Path, wanted: FeatureSpec) -> FeaturesManifest:
    at = START + 5 * HOUR
    marks = {}
    for name, rows in files_at(engine, log((1, "i", 1, 1, "news"), (2, "j", 2, 0, None)), wanted, at).items():
        pq.write_table(rows, folder / name)
        marks[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest = FeaturesManifest(
        spec=wanted, as_of=at, window=Window(start=START, end=at), users=1, items=1, files=marks
    )
    (folder / MANIFEST).write_text(canonical_json(manifest))
    return manifest


def test_a_table_survives_the_disk_and_knows_its_digest(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    manifest = on_disk(engine, tmp_path, spec())
    assert set(manifest.files) == set(file_names(spec()))
    loaded = ServingFeatures.load(tmp_path)
    again = ServingFeatures.load(tmp_path, expected_digest=loaded.digest)
    assert (again.as_of, again.spec) == (START + 5 * HOUR, spec())
    assert looked_up(again, [(1, "i", "news", START + 6 * HOUR)])["hist_user_impressions"].item() == 1


def test_a_changed_a_torn_and_another_table_are_refused_by_name(
    engine: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    on_disk(engine, tmp_path, spec())
    with pytest.raises(FeaturesError, match="0000 was expected"):
        ServingFeatures.load(tmp_path, expected_digest="0000")
    whole = (tmp_path / USERS).read_bytes()
    (tmp_path / USERS).write_bytes(whole[:-7])
    with pytest.raises(FeaturesError, match=r"users\.parquet has the sha256 .* did not arrive whole"):
        ServingFeatures.load(tmp_path)
    (tmp_path / USERS).unlink()
    with pytest.raises(FeaturesError, match=r"users\.parquet cannot be read: No such file"):
        ServingFeatures.load(tmp_path)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(FeaturesError, match=r"manifest\.json cannot be used by this version"):
        ServingFeatures.load(tmp_path)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(FeaturesError, match=r"manifest\.json cannot be read"):
        ServingFeatures.load(tmp_path)
