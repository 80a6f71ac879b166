"""Bins, sketches and counts: what is seen of rows, and that shards add up to the whole."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.bins import ColumnBins, ColumnKind, Layout, fit_bins, kinds_of
from ranking.counts import Counts, count, label_rate, total
from ranking.errors import InvalidInteractions, MissingColumn
from ranking.features import Feature, FeatureSpec, HistoryKnobs, Kind, Owner, Schema
from ranking.sketches import KeySketch, hashes_of
from ranking.times import Window

START = datetime(2026, 1, 5, tzinfo=UTC)
TODAY = Window(start=START, end=START + timedelta(days=1))
KINDS = {"age": ColumnKind.NUMERIC, "device": ColumnKind.CATEGORICAL, "click": ColumnKind.LABEL}


def numbers(values, bins=10):
    """The bins of one column of numbers."""
    rows = pa.table({"x": pa.array(values, type=pa.float64())})
    return fit_bins(rows, {"x": ColumnKind.NUMERIC}, bins=bins, max_categories=3, max_known_values=5)[0]


def categories(values, **changes):
    sizes = {"bins": 10, "max_categories": 3, "max_known_values": 5} | changes
    return fit_bins(pa.table({"x": pa.array(values)}), {"x": ColumnKind.CATEGORICAL}, **sizes)[0]


def rows(size, seed=0, users=50):
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 10, size)
    age[rng.random(size) < 0.1] = np.nan
    device = rng.choice(["phone", "tablet", "desktop", None], size, p=[0.6, 0.1, 0.2, 0.1])
    return pa.table(
        {
            "user": rng.integers(0, users, size),
            "item": rng.integers(0, 20, size),
            "time": np.datetime64("2026-01-05", "us") + rng.integers(0, 86_400, size) * np.timedelta64(1_000_000, "us"),
            "age": age,
            "device": pa.array(device.tolist()),
            "click": (rng.random(size) < 0.2).astype(int),
        }
    )


def layout(table, **changes):
    columns = fit_bins(table, KINDS, bins=10, max_categories=2, max_known_values=3)
    return Layout(user="user", time="time", key=("user", "item", "time"), columns=columns, **changes)


def one_column(table, bins, name="x"):
    columns = {"user": np.zeros(len(table)), "time": pa.array([START] * len(table))}
    whole = pa.table(columns | {name: table})
    single = Layout(user="user", time="time", key=("user",), columns=(bins,))
    return count(whole, single, TODAY).columns[name]


def test_quantile_bins_hold_about_as_many_rows_each():
    values = np.random.default_rng(0).exponential(size=10_000)
    bins = numbers(values)
    assert bins.size == 11
    assert one_column(values, bins).bins[:-1] == pytest.approx([1_000] * 10, abs=2)


def test_a_value_that_most_rows_share_does_not_swallow_the_other_bins():
    values = np.concatenate((np.zeros(9_500), np.random.default_rng(0).exponential(size=500)))
    bins = numbers(values)
    found = one_column(values, bins).bins
    assert found[0] == 9_500
    assert sum(found) == 10_000
    assert found[1:-1] == pytest.approx([500 / 9] * 9, abs=2)


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([0, 1] * 50, (1.0,)),
        ([0] * 95 + [1] * 5, (1.0,)),
        ([7] * 100, (7.0, float(np.nextafter(7, 8)))),
        ([None] * 100, ()),
    ],
)
def test_few_values_each_have_their_bin_and_a_constant_is_told_from_its_neighbours(values, edges):
    assert numbers(values).edges == edges


def test_another_constant_falls_into_another_bin():
    bins = numbers([7.0] * 100)
    assert one_column([6.0, 7.0, 7.0, 8.0, 8.0, 8.0], bins).bins == (1, 2, 3, 0)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 3), st.floats(-1e6, 1e6)), max_size=60), st.integers(2, 12))
def test_every_row_is_in_one_bin_and_no_edge_repeats(values, size):
    bins = numbers(values, bins=size)
    assert list(bins.edges) == sorted(set(bins.edges))
    assert len(bins.edges) <= 2 * size
    found = one_column(pa.array(values, type=pa.float64()), bins)
    assert sum(found.bins) == len(values)
    assert found.bins[-1] == values.count(None)
    known = np.array([value for value in values if value is not None], dtype=float)
    expected = np.bincount(np.searchsorted(bins.edges, known, side="right"), minlength=bins.size - 1)
    assert found.bins[:-1] == tuple(expected.tolist())


def test_infinity_and_nan_count_as_null():
    found = one_column([1.0, float("inf"), float("-inf"), float("nan"), 2.0], numbers([1.0, 2.0]))
    assert found.bins == (1, 1, 3)
    assert (found.lowest, found.highest, found.total) == (1.0, 2.0, 3.0)


def test_frequent_values_have_bins_and_the_rest_share_one():
    bins = categories(["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2 + ["e", "f"])
    assert bins.values == ("a", "b", "c", "d", "e")
    found = one_column(pa.array(["a", "d", "f", "new", None]), bins)
    assert found.bins == (1, 0, 0, 3, 1)
    assert found.unseen == 2
    assert found.unseen_share == 0.5


def test_a_whole_number_is_the_same_category_whatever_type_it_comes_in():
    bins = categories([1, 1, 2])
    for cells in ([1, 2], [1.0, 2.0], ["1", "2"]):
        assert one_column(pa.array(cells), bins).bins == (1, 1, 0, 0)


def test_a_column_that_is_not_there_or_not_readable_is_told_and_stops_nothing():
    table = rows(200)
    found = count(table.drop_columns(["age"]), layout(table), TODAY)
    assert found.broken == {"age": "The column 'age' is not there."}
    texts = table.set_column(table.column_names.index("age"), "age", pa.array(["old"] * 200))
    assert "holds string that is no number" in count(texts, layout(table), TODAY).broken["age"]
    assert set(found.columns) == {"device", "click"}


def test_without_user_time_or_key_nothing_is_counted():
    table = rows(20)
    with pytest.raises(MissingColumn, match="The window's rows lack user, item"):
        count(table.drop_columns(["user", "item"]), layout(table), TODAY)


def test_a_reference_needs_its_columns_in_a_form_it_can_read():
    table = rows(20)
    with pytest.raises(MissingColumn, match="lack 1 of 3 watched columns: age"):
        layout(table.drop_columns(["age"]))
    with pytest.raises(InvalidInteractions, match="'age' holds string that is no number"):
        layout(table.set_column(table.column_names.index("age"), "age", pa.array(["old"] * 20)))


def without_sums(counts):
    """Floats add up differently in another order; everything else must not."""
    age = counts.columns["age"].model_copy(update={"total": 0.0, "squares": 0.0})
    return counts.model_copy(update={"columns": counts.columns | {"age": age}})


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1_000), st.integers(1, 300), st.lists(st.integers(0, 300), max_size=3))
def test_the_sum_of_the_shards_counts_is_the_count_of_the_whole(seed, size, cuts):
    table = rows(size, seed)
    plan = layout(table, arrival="time")
    bounds = [0, *sorted(min(cut, size) for cut in cuts), size]
    shards = [table.slice(low, high - low) for low, high in pairwise(bounds)]
    whole, added = count(table, plan, TODAY), total(count(shard, plan, TODAY) for shard in shards)
    assert added.columns["age"].total == pytest.approx(whole.columns["age"].total)
    assert added.columns["age"].squares == pytest.approx(whole.columns["age"].squares)
    assert without_sums(added) == without_sums(whole)


def test_counts_survive_json():
    found = count(rows(300), layout(rows(300)), TODAY)
    assert Counts.model_validate_json(found.model_dump_json()) == found


def test_a_shard_without_a_column_adds_nulls():
    table = rows(100)
    plan = layout(table)
    added = count(table, plan, TODAY) + count(table.drop_columns(["age"]), plan, TODAY)
    assert added.columns["age"].rows == 200
    assert added.columns["age"].null_share > 0.5
    assert "age" in added.broken


def test_labels_that_are_not_known_yet_are_not_in_the_label_rate():
    table = rows(100)
    plan = layout(table)
    known = count(table, plan, TODAY)
    assert label_rate(known, plan.column("click")) == pytest.approx(np.mean(table["click"].to_numpy()))
    unknown = table.set_column(table.column_names.index("click"), "click", pa.nulls(100, pa.int64()))
    assert label_rate(count(unknown, plan, TODAY), plan.column("click")) is None
    half = known + count(unknown, plan, TODAY)
    assert label_rate(half, plan.column("click")) == label_rate(known, plan.column("click"))


def test_rows_that_came_late_or_never_said_when_are_late():
    table = rows(4).set_column(2, "time", pa.array([START] * 4))
    arrived = [START + timedelta(hours=1), START + timedelta(hours=7), None, START + timedelta(hours=6)]
    table = table.append_column("arrived", pa.array(arrived))
    assert count(table, layout(rows(50), arrival="arrived", late_after_hours=6.0), TODAY).late == 2
    assert count(table, layout(rows(50)), TODAY).late is None


def test_columns_that_agree_in_every_row_have_one_fingerprint_in_any_order_of_rows():
    table = rows(500)
    twin = table.append_column("twin", table["age"])
    kinds = KINDS | {"twin": ColumnKind.NUMERIC}
    columns = fit_bins(twin, kinds, bins=10, max_categories=2, max_known_values=3)
    plan = Layout(user="user", time="time", key=("user", "item", "time"), columns=columns)
    shuffled = twin.take(np.random.default_rng(1).permutation(500))
    found = [count(part, plan, TODAY).columns for part in (twin, shuffled)]
    assert found[0]["age"].fingerprint == found[0]["twin"].fingerprint == found[1]["age"].fingerprint
    moved = twin.set_column(twin.column_names.index("twin"), "twin", shuffled["age"])
    other = count(moved, plan, TODAY).columns
    assert other["age"].fingerprint != other["twin"].fingerprint


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 60), max_size=80), min_size=1, max_size=4), st.integers(1, 50))
def test_sketches_of_shards_add_up_to_the_sketch_of_the_whole(shards, limit):
    hashed = [hashes_of([pa.array(shard, type=pa.int64())]) for shard in shards]
    added = KeySketch(limit=limit)
    for part in hashed:
        added += KeySketch.of(part, limit)
    assert added == KeySketch.of(np.concatenate(hashed), limit)
    everybody = [key for shard in shards for key in shard]
    if len(set(everybody)) < limit:
        assert added.distinct == len(set(everybody))
        assert sum(added.rows) == len(everybody)


def test_many_keys_are_counted_within_a_few_percent():
    keys = np.random.default_rng(0).integers(0, 50_000, 300_000)
    found = KeySketch.of(hashes_of([pa.array(keys)]))
    assert found.distinct == pytest.approx(len(np.unique(keys)), rel=0.1)
    assert found.repeated_share == pytest.approx(1 - len(np.unique(keys)) / len(keys), abs=0.01)


def test_busy_users_make_fewer_effective_ones():
    keys = np.repeat(np.arange(300), np.where(np.arange(300) < 10, 100, 1))
    rows_of = np.bincount(keys)
    found = KeySketch.of(hashes_of([pa.array(keys)]))
    assert found.effective == pytest.approx(rows_of.sum() ** 2 / (rows_of**2).sum())
    assert KeySketch().effective == 0
    assert KeySketch().repeated_share is None


def test_a_key_of_several_columns_is_not_the_key_of_their_swapped_values():
    left, right = pa.array([1, 2]), pa.array([2, 1])
    assert len(set(hashes_of([left, right]).tolist())) == 2
    texts = hashes_of([pa.array(["a", "b", None, "a"])])
    assert texts[0] == texts[3]
    assert len(set(texts.tolist())) == 3


def test_what_is_watched_follows_from_what_the_model_reads():
    log = Schema(
        user="u",
        item="i",
        time="t",
        label="click",
        request=None,
        features=(Feature(name="device", owner=Owner.USER, kind=Kind.CATEGORICAL),),
    )
    kinds = kinds_of(FeatureSpec(log=log, history=HistoryKnobs(windows_days=(3,), since_start=False)), score="score")
    assert kinds["device"] is ColumnKind.CATEGORICAL
    assert kinds["hist_user_ctr_3d"] is ColumnKind.NUMERIC
    assert kinds["click"] is ColumnKind.LABEL
    assert kinds["score"] is ColumnKind.SCORE
    assert "u" not in kinds


def test_only_a_label_has_a_label_rate():
    with pytest.raises(ValueError, match="age is no label"):
        label_rate(count(rows(5), layout(rows(50)), TODAY), ColumnBins(name="age", kind=ColumnKind.NUMERIC))
