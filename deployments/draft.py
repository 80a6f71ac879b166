"""Draft a ``feedloop.toml`` by looking at the data: guess the roles, list the features, explain each line."""

import json
from datetime import datetime

from ranking.errors import MissingColumn
from tasks.data import Column

ROLE_WORDS = {
    "user": ("user", "uid", "member", "customer", "visitor", "viewer", "reader"),
    "item": ("item", "article", "product", "movie", "video", "post", "content", "document", "news", "ad", "track"),
    "time": ("timestamp", "event_time", "time", "ts", "datetime", "date", "at"),
    "label": ("click", "clicked", "label", "target", "is_click", "converted", "liked", "y"),
    "request": ("request", "impression", "page_view", "pageview", "session", "query"),
}
MANY = 50
"""An integer column with more different values than this is read as a quantity, not as a code."""


def draft(uri: str, columns: list[Column], newest: datetime | None) -> str:
    """The text of a settings file for a log.

    Args:
        uri: where the log is.
        columns: its columns, in order.
        newest: time of the newest row, written as a comment.

    Returns:
        TOML that ``feedloop retrain --config`` accepts, with every guess in plain sight.

    Raises:
        MissingColumn: user, item, time or label cannot be guessed.
    """
    roles = guess_roles(columns)
    rest = [column for column in columns if column.name not in roles.values() and column.kind not in ("time", "other")]
    lines = [
        "# Drafted by `feedloop init`. Check the roles and the kinds of the features; all other knobs have defaults",
        "# and are described in docs/settings.md.",
        "",
        "[data]",
        f"uri = {_text(uri)}",
        "window_days = 60  # how far back a retraining reads",
        "label_delay_hours = 0  # how long after an impression a click can still come",
        *([f"# the newest row is from {newest.isoformat()}"] if newest else []),
        "",
        "[data.columns]",
        *(f"{role} = {_text(name)}" for role, name in roles.items()),
    ]
    for owner in ("user", "item", "context"):
        mine = [column for column in rest if _owner(column.name) == owner]
        if mine:
            lines += ["", f"[data.columns.{owner}_features]"]
            lines.append(f"categorical = {_list([c.name for c in mine if not _is_quantity(c)])}")
            lines.append(f"numeric = {_list([c.name for c in mine if _is_quantity(c)])}")
    return "\n".join([*lines, *_history(rest)]) + "\n"


def guess_roles(columns: list[Column]) -> dict[str, str]:
    """Which column plays which role, by name first and by type where the name says nothing.

    Raises:
        MissingColumn: a required role has no candidate; the message lists the columns.
    """
    roles: dict[str, str] = {}
    for role, words in ROLE_WORDS.items():
        free = [column for column in columns if column.name not in roles.values()]
        best = max(free, key=lambda column: _fit(role, column, words), default=None)
        if best is not None and _fit(role, best, words) > 0:
            roles[role] = best.name
        elif role != "request":
            names = ", ".join(f"{column.name} ({column.kind})" for column in columns)
            raise MissingColumn(
                f"No column looks like the {role} (names such as {', '.join(words[:3])}). The data have: {names}. "
                f"Rename one, or write the file by hand with data.columns.{role}."
            )
    return roles


def _fit(role: str, column: Column, words: tuple[str, ...]) -> int:
    allowed = {
        "time": ("time",),
        "label": ("integer", "float", "boolean"),
    }.get(role, ("text", "integer"))
    if column.kind not in allowed or (role == "label" and column.distinct > 2):
        return 0
    name = column.name.lower()
    parts = name.replace("-", "_").split("_")
    if name in words or name in {f"{word}_id" for word in words}:
        return 4
    if "id" in parts and any(word in parts for word in words):
        return 3
    if role in ("time", "label"):
        return 2 if any(word in parts for word in words) else 1 if role == "time" else 0
    return 0


def _owner(name: str) -> str:
    first = name.lower().split("_")[0]
    if first in ROLE_WORDS["user"]:
        return "user"
    return "item" if first in ROLE_WORDS["item"] else "context"


def _is_quantity(column: Column) -> bool:
    return column.kind == "float" or (column.kind == "integer" and column.distinct > MANY)


def _history(rest: list[Column]) -> list[str]:
    attributes = [
        column.name
        for column in rest
        if _owner(column.name) == "item" and not _is_quantity(column) and column.distinct <= 1000
    ]
    return [
        "",
        "[history]",
        "# item columns whose past click rate counts too, for everybody and for each user",
        f"item_attributes = {_list(attributes[:1])}",
    ]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _list(names: list[str]) -> str:
    return json.dumps(names, ensure_ascii=False)
