"""Roles and patterns become the columns a log really has, or a message that says what is wrong."""

import subprocess
import sys

import pytest

from ranking.errors import MissingColumn, SettingsError
from ranking.features import (
    ColumnKnobs,
    FeatureGroup,
    FeatureSpec,
    HistoryKnobs,
    Kind,
    Owner,
    Schema,
    resolve,
)

COLUMNS = ["user_id", "item_id", "timestamp", "click", "user_age", "user_city", "item_price", "ctx_hour", "noise"]


def named(schema: Schema) -> dict[str, tuple[Owner, Kind]]:
    return {feature.name: (feature.owner, feature.kind) for feature in schema.features}


def test_the_roles_alone_make_a_schema_without_features() -> None:
    schema = resolve(ColumnKnobs(), COLUMNS)
    assert schema.columns == ("user_id", "item_id", "timestamp", "click")
    assert schema.key == ("user_id", "item_id", "timestamp")


def test_a_request_is_part_of_the_key() -> None:
    schema = resolve(ColumnKnobs(request="noise"), COLUMNS)
    assert schema.key == ("user_id", "item_id", "timestamp", "noise")
    assert "noise" in schema.columns


def test_a_pattern_takes_what_matches_but_never_a_role_and_an_exact_name_beats_it() -> None:
    knobs = ColumnKnobs(
        user_features=FeatureGroup(categorical=("user_*",), numeric=("user_age",)),
        item_features=FeatureGroup(numeric=("item_*",)),
        context_features=FeatureGroup(categorical=("*_hour",)),
    )
    assert named(resolve(knobs, COLUMNS)) == {
        "user_age": (Owner.USER, Kind.NUMERIC),
        "user_city": (Owner.USER, Kind.CATEGORICAL),
        "item_price": (Owner.ITEM, Kind.NUMERIC),
        "ctx_hour": (Owner.CONTEXT, Kind.CATEGORICAL),
    }


def test_the_first_of_two_matching_patterns_wins() -> None:
    knobs = ColumnKnobs(
        user_features=FeatureGroup(numeric=("*_age",)), context_features=FeatureGroup(categorical=("user_*",))
    )
    assert named(resolve(knobs, COLUMNS))["user_age"] == (Owner.USER, Kind.NUMERIC)


def test_features_come_in_the_logs_order() -> None:
    knobs = ColumnKnobs(context_features=FeatureGroup(numeric=("noise", "ctx_hour", "item_price")))
    assert list(named(resolve(knobs, COLUMNS))) == ["item_price", "ctx_hour", "noise"]


@pytest.mark.parametrize(
    ("knobs", "error", "says"),
    [
        (
            ColumnKnobs(label="clicked"),
            MissingColumn,
            r"no column 'clicked' \(data.columns.label\).*They have: user_id",
        ),
        (ColumnKnobs(user="a", item="b"), MissingColumn, r"'a' \(data.columns.user\), 'b' \(data.columns.item\)"),
        (
            ColumnKnobs(user_features=FeatureGroup(numeric=("user_height",))),
            MissingColumn,
            r"'user_height' \(data.columns.user_features.numeric\)",
        ),
        (
            ColumnKnobs(item_features=FeatureGroup(categorical=("thing_*",))),
            MissingColumn,
            r"item_features.categorical: the pattern 'thing_\*' matches no column",
        ),
        (ColumnKnobs(label="user_id"), SettingsError, "gives one column two roles"),
        (ColumnKnobs(user_features=FeatureGroup(numeric=("click",))), SettingsError, "names 'click' twice"),
        (
            ColumnKnobs(user_features=FeatureGroup(numeric=("user_age",), categorical=("user_age",))),
            SettingsError,
            "names 'user_age' twice",
        ),
    ],
)
def test_what_cannot_be_resolved_is_said_by_name_and_setting(
    knobs: ColumnKnobs, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        resolve(knobs, COLUMNS)


def test_history_columns_are_named_after_whose_history_it_is_and_how_far_back() -> None:
    log = resolve(ColumnKnobs(item_features=FeatureGroup(categorical=("item_price",))), COLUMNS)
    spec = FeatureSpec(log=log, history=HistoryKnobs(item_attributes=("item_price",), windows_days=(7,)))
    owners = {feature.name: feature.owner for feature in spec.history_features}
    per_key = ("impressions", "ctr", "impressions_7d", "ctr_7d", "recency_hours")
    keys = {
        "user": Owner.USER,
        "item": Owner.ITEM,
        "item_price": Owner.ITEM,
        "user_x_item_price": Owner.CONTEXT,
    }
    assert owners == {f"hist_{key}_{what}": owner for key, owner in keys.items() for what in per_key}
    assert spec.features == (*log.features, *spec.history_features)


def test_history_can_be_switched_off() -> None:
    spec = FeatureSpec(log=resolve(ColumnKnobs(), COLUMNS), history=HistoryKnobs(enabled=False))
    assert spec.history_keys == ()
    assert spec.features == ()


def test_a_specification_is_light_because_it_travels_in_every_bundle() -> None:
    script = (
        "import sys, ranking.features; print([m for m in ('torch', 'pandas', 'ibis', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
