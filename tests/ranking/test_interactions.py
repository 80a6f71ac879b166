"""Each bad input is refused with the column, the count and examples."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pandas as pd
import pytest

from ranking.errors import EmptyWindow, FeedloopError, InvalidInteractions
from ranking.features import ColumnKnobs, FeatureGroup, resolve
from ranking.interactions import canonical, check_not_future, check_rows, check_types
from ranking.times import Window

NOW = datetime(2026, 2, 1, tzinfo=UTC)
WINDOW = Window(start=NOW - timedelta(days=30), end=NOW)
ROLES = ColumnKnobs(
    request="request_id",
    user_features=FeatureGroup(categorical=("user_device",)),
    item_features=FeatureGroup(numeric=("item_price",)),
)


def log(rows: int = 100) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "request_id": np.arange(rows),
            "user_id": rng.integers(0, 10, rows),
            "item_id": [f"item{number}" for number in rng.integers(0, 20, rows)],
            "timestamp": pd.date_range(NOW - timedelta(days=20), periods=rows, freq="h"),
            "click": np.arange(rows) % 2,
            "user_device": rng.choice(["phone", "desktop"], rows),
            "item_price": rng.random(rows),
        }
    )


def check(frame: pd.DataFrame) -> None:
    table = ibis.memtable(frame)
    schema = resolve(ROLES, table.columns)
    check_types(table, schema)
    rows = canonical(table, schema)
    check_not_future(rows, schema, now=NOW)
    check_rows(rows, schema, window=WINDOW, log_rows=len(frame))


def changed(column: str, values: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        result = frame.copy()
        if isinstance(values, dict):
            result[column] = result[column].astype(
                object if isinstance(next(iter(values.values())), str) else result[column].dtype
            )
            for row, value in values.items():
                result.loc[row, column] = value
        else:
            result[column] = values
        return result

    return change


def test_a_good_log_passes() -> None:
    check(log())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            changed("user_id", np.linspace(0, 1, 100)),
            ["'user_id'", "data.columns.user", "float64", "all 100 rows", "whole numbers"],
        ),
        (changed("timestamp", ["2026-01-02"] * 100), ["'timestamp'", "string", "pandas.to_datetime", "'2026-01-02'"]),
        (changed("click", ["yes"] * 100), ["'click'", "string", "0 or 1", "'yes'"]),
        (changed("item_price", ["cheap"] * 100), ["'item_price'", "a feature", "list it as categorical"]),
        (changed("user_device", np.linspace(0, 1, 100)), ["'user_device'", "list it as numeric"]),
        (
            changed("item_id", {3: None, 4: None, 5: None, 6: None}),
            ["'item_id' is null in 4 of 100 rows", "request_id: 3", "request_id: 5"],
        ),
        (
            changed("click", np.where(np.arange(100) < 3, np.nan, np.arange(100) % 2)),
            ["'click' is null in 3 of 100 rows"],
        ),
        (changed("click", {1: 2, 2: -1}), ["'click' is neither 0 nor 1 in 2 of 100 rows", "click: 2", "click: -1"]),
        (
            changed("click", np.where(np.arange(100) == 7, 0.5, np.arange(100) % 2)),
            ["'click' is neither 0 nor 1 in 1 of 100 rows", "click: 0.5"],
        ),
        (changed("click", 1), ["'click' is 1 in all 100 rows", "one class"]),
        (changed("click", 0), ["'click' is 0 in all 100 rows", "one class"]),
        (
            changed("timestamp", pd.date_range(NOW + timedelta(hours=1), periods=100, freq="h")),
            ["'timestamp' lies in the future", "100 of 100 rows", "time zone"],
        ),
        (
            lambda frame: pd.concat([frame, frame.head(4)]),
            ["4 of 104 rows repeat the key (user_id, item_id, timestamp, request_id)", "request_id: 0"],
        ),
    ],
)
def test_a_bad_log_is_refused_with_column_count_and_examples(
    damage: Callable[[pd.DataFrame], pd.DataFrame], says: list[str]
) -> None:
    with pytest.raises(InvalidInteractions) as caught:
        check(damage(log()))
    message = str(caught.value)
    assert not [words for words in says if words not in message], message
    assert "\n" not in message


def test_all_broken_rules_are_told_at_once_and_a_missing_label_only_once() -> None:
    frame = changed("item_id", {1: None})(log())
    frame["click"] = frame["click"].astype(float)
    frame.loc[2, "click"] = np.nan
    frame.loc[3, "click"] = 7
    with pytest.raises(InvalidInteractions) as caught:
        check(pd.concat([frame, frame.tail(1)]))
    message = str(caught.value)
    for words in (
        "'item_id' is null in 1",
        "'click' is null in 1",
        "'click' is neither 0 nor 1 in 1",
        "1 of 101 rows repeat",
    ):
        assert words in message


def test_no_more_than_three_examples_are_shown() -> None:
    with pytest.raises(InvalidInteractions) as caught:
        check(changed("click", 5)(log()))
    assert str(caught.value).count("click: 5") == 3


def test_an_empty_window_says_how_many_rows_the_log_has() -> None:
    schema = resolve(ROLES, list(log().columns))
    rows = canonical(ibis.memtable(log()), schema)
    with pytest.raises(EmptyWindow, match=r"None of the log's 100 rows lies between .*window_days"):
        check_rows(rows.filter(rows.user_id < 0), schema, window=WINDOW, log_rows=100)


@pytest.mark.parametrize("label", [np.int8, np.float32, bool, np.int64])
def test_a_label_may_be_of_any_numeric_type(label: type) -> None:
    frame = log()
    frame["click"] = frame["click"].astype(label)
    check(frame)


def test_missing_values_in_features_are_allowed_and_infinite_numbers_become_missing() -> None:
    frame = log()
    frame.loc[0, "item_price"] = np.inf
    frame.loc[1, "item_price"] = np.nan
    frame["user_device"] = frame["user_device"].astype(object)
    frame.loc[2, "user_device"] = None
    check(frame)
    schema = resolve(ROLES, list(frame.columns))
    cleaned = canonical(ibis.memtable(frame), schema)
    assert cleaned.item_price.isnull().sum().execute() == 2


def test_a_time_without_a_zone_and_a_date_mean_utc() -> None:
    frame = log()
    naive = frame.assign(timestamp=frame["timestamp"].dt.tz_localize(None))
    schema = resolve(ROLES, list(frame.columns))
    times = canonical(ibis.memtable(naive), schema).order_by("request_id").execute()["timestamp"]
    assert (times.to_numpy() == frame["timestamp"].to_numpy()).all()
    check(naive)


def test_every_refusal_is_an_error_of_feedloop_with_the_exit_code_of_data() -> None:
    with pytest.raises(FeedloopError) as caught:
        check(changed("click", 5)(log()))
    assert caught.value.exit_code == 3
