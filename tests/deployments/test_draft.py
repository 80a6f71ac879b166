import tomllib
from datetime import UTC, datetime

import pytest

from deployments.draft import Column, draft, guess_roles
from ranking.errors import MissingColumn
from ranking.features import resolve
from settings.model import Settings

MOVIELENS = [
    Column("user_id", "text", 943),
    Column("item_id", "text", 1682),
    Column("timestamp", "time", 50_000),
    Column("click", "integer", 2),
    Column("user_age", "integer", 61),
    Column("user_gender", "text", 2),
    Column("item_release_year", "float", 71),
    Column("item_main_genre", "text", 19),
    Column("ctx_hour", "integer", 24),
]


def test_the_draft_is_a_settings_file_that_loads_and_names_every_column() -> None:
    text = draft("log.parquet", MOVIELENS, datetime(1998, 4, 22, tzinfo=UTC))
    settings = Settings.model_validate(tomllib.loads(text))
    schema = resolve(settings.data.columns, [column.name for column in MOVIELENS])
    kinds = {feature.name: (feature.owner, feature.kind) for feature in schema.features}
    assert kinds == {
        "user_age": ("user", "numeric"),
        "user_gender": ("user", "categorical"),
        "item_release_year": ("item", "numeric"),
        "item_main_genre": ("item", "categorical"),
        "ctx_hour": ("context", "categorical"),
    }
    assert settings.history.item_attributes == ("item_main_genre",)


def test_other_names_for_the_roles_are_understood() -> None:
    columns = [
        Column("viewer", "integer", 100),
        Column("video_id", "text", 50),
        Column("event_time", "time", 1000),
        Column("is_click", "boolean", 2),
        Column("request_id", "text", 900),
    ]
    assert guess_roles(columns) == {
        "user": "viewer",
        "item": "video_id",
        "time": "event_time",
        "label": "is_click",
        "request": "request_id",
    }


def test_a_role_that_nothing_looks_like_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(MissingColumn, match=r"looks like the label.*a \(text\)"):
        guess_roles(
            [Column("user_id", "text", 9), Column("item_id", "text", 9), Column("t", "time", 9), Column("a", "text", 9)]
        )
