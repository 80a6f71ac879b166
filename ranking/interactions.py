"""Checks of an interaction log: its types, and what must hold of every row before anything is learnt from it.

The checks run inside the engine that holds the rows (pandera's Ibis backend), so a log of any size is never
loaded to be validated.  All broken rules are told at once.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ranking.errors import EmptyWindow, InvalidInteractions
from ranking.features import Kind, Schema
from ranking.times import Window, as_utc

if TYPE_CHECKING:
    import ibis.expr.types as ir

EXAMPLES = 3


def check_types(log: "ir.Table", schema: Schema) -> None:
    """Refuse columns whose type cannot play their role.

    Args:
        log: the log as it was found; it has every column that ``schema`` keeps.
        schema: the roles.

    Raises:
        InvalidInteractions: names each column, its type, what is allowed, how many rows, three examples.
    """
    wrong = [column for column in schema.kept if not _fits(log[column].type(), _allowed(schema, column))]
    if not wrong:
        return
    rows = log.count().execute()
    told = []
    for column in wrong:
        shown = ", ".join(repr(value) for value in log.select(column).limit(EXAMPLES).execute()[column].tolist())
        told.append(
            f"column {column!r} ({_role(schema, column)}) has type {log[column].type()} in all {rows:,} rows "
            f"(such as {shown}); it must be {_allowed(schema, column).words}"
        )
    raise InvalidInteractions(f"The log has columns of the wrong type: {'; '.join(told)}. Convert them and try again.")


def canonical(log: "ir.Table", schema: Schema) -> "ir.Table":
    """The columns that the schema keeps, in the types that everything later relies on.

    times: timestamp in UTC, microseconds; ids: int64 or text; categories: text; numbers: float64, where
    infinite and NaN become null.  Floating labels stay floating, so that 0.5 is still seen as wrong.
    """
    import ibis

    columns: dict[str, Any] = {}
    for name in (schema.user, schema.item, *((schema.request,) if schema.request else ())):
        columns[name] = log[name].cast("int64" if log[name].type().is_integer() else "string")
    columns[schema.time] = log[schema.time].cast("timestamp('UTC', 6)")
    label = log[schema.label]
    columns[schema.label] = label.cast("float64" if label.type().is_floating() else "int64")
    if schema.exploration:
        columns[schema.exploration] = log[schema.exploration].cast("boolean")
    if schema.delivered:
        columns[schema.delivered] = log[schema.delivered].cast("timestamp('UTC', 6)")
    for feature in schema.features:
        column = log[feature.name]
        if feature.kind is Kind.CATEGORICAL:
            columns[feature.name] = column.cast("string")
            continue
        number = column.cast("float64")
        finite = ~(number.isnan() | number.isinf())
        columns[feature.name] = ibis.cases((finite, number), else_=ibis.null("float64"))
    return log.select(**{name: columns[name] for name in schema.kept})


def check_not_future(rows: "ir.Table", schema: Schema, *, now: datetime) -> None:
    """Refuse a log with impressions after ``now``: a clock or a time zone is wrong, and "recent" means nothing.

    Args:
        rows: the whole canonical log.
        schema: the roles.
        now: the present.

    Raises:
        InvalidInteractions: names the column, the count and three examples.
    """
    import ibis

    late = rows.filter(rows[schema.time] > ibis.literal(now))
    count, total = int(late.count().execute()), int(rows.count().execute())
    if count:
        raise InvalidInteractions(
            f"Column {schema.time!r} lies in the future (after {as_utc(now)}) in {count:,} of {total:,} rows: "
            f"{_examples(late, schema)}. Check the clock and the time zone of whoever writes the log."
        )


def check_rows(rows: "ir.Table", schema: Schema, *, window: Window, log_rows: int) -> None:
    """Refuse a window whose rows break the contract.

    Args:
        rows: the canonical rows of the window.
        schema: the roles.
        window: what was asked for, for the message.
        log_rows: rows of the whole log, for the message.

    Raises:
        EmptyWindow: there is no row.
        InvalidInteractions: nulls in a role, labels other than 0 and 1, duplicates, or one class; every
            broken rule with its column, count and three examples.
    """
    total = int(rows.count().execute())
    if total == 0:
        raise EmptyWindow(
            f"None of the log's {log_rows:,} rows lies between {as_utc(window.start)} and {as_utc(window.end)}. "
            "Move the cut-off, widen data.window_days, or bring newer data."
        )
    problems = [*_broken_rules(rows, schema, total), *_duplicates(rows, schema, total)]
    if not problems:
        problems = _one_class(rows, schema, total)
    if problems:
        raise InvalidInteractions(f"The log cannot be learnt from: {'; '.join(problems)}. Nothing was trained.")


@dataclass(frozen=True)
class _Allowed:
    tests: tuple[str, ...]
    words: str


_ID = _Allowed(("is_string", "is_integer"), "text or whole numbers (missing values turn whole numbers into floats)")
_TIME = _Allowed(("is_timestamp", "is_date"), "a timestamp (parse text with pandas.to_datetime(..., utc=True))")
_LABEL = _Allowed(("is_integer", "is_boolean", "is_floating"), "0 or 1")
_FLAG = _Allowed(("is_integer", "is_boolean"), "true or false, or 1 or 0")
_NUMBER = _Allowed(("is_integer", "is_boolean", "is_floating", "is_decimal"), "a number (or list it as categorical)")
_CATEGORY = _Allowed(
    ("is_string", "is_integer", "is_boolean"), "text, whole numbers or booleans (or list it as numeric)"
)


def _fits(kind: Any, allowed: _Allowed) -> bool:
    return any(getattr(kind, test)() for test in allowed.tests)


def _allowed(schema: Schema, column: str) -> _Allowed:
    if column in {schema.time, schema.delivered}:
        return _TIME
    if column == schema.label:
        return _LABEL
    if column == schema.exploration:
        return _FLAG
    kinds = {feature.name: feature.kind for feature in schema.features}
    if column not in kinds:
        return _ID
    return _NUMBER if kinds[column] is Kind.NUMERIC else _CATEGORY


def _role(schema: Schema, column: str) -> str:
    roles = {name: role for role, name in schema.roles.items()} | {schema.delivered: "delivered"}
    return f"data.columns.{roles[column]}" if column in roles else "a feature"


def _broken_rules(rows: "ir.Table", schema: Schema, total: int) -> list[str]:
    """Nulls and wrong labels, found by pandera."""
    import pandera.ibis as pandera
    from pandera.errors import SchemaErrors

    roles = tuple(schema.roles.values())
    contract = pandera.DataFrameSchema(
        {
            name: pandera.Column(
                nullable=False,
                checks=[pandera.Check.isin([0, 1], n_failure_cases=EXAMPLES)] if name == schema.label else [],
            )
            for name in roles
        }
    )
    try:
        contract.validate(rows.select(*roles), lazy=True)
    except SchemaErrors as errors:
        broken = [(str(error.schema.name), str(error.check)) for error in errors.schema_errors]
        return [_told(rows, schema, column, check, total) for column, check in dict.fromkeys(broken)]
    return []


def _told(rows: "ir.Table", schema: Schema, column: str, check: str, total: int) -> str:
    values = rows[column]
    empty = values.isnull() | values.isnan() if values.type().is_floating() else values.isnull()
    if "isin" in check:
        # A missing label fails both rules; it is told once, as missing.
        bad, words = rows.filter(~empty & ~values.isin([0, 1])), "is neither 0 nor 1"
    else:
        bad, words = rows.filter(empty), "is null"
    return f"column {column!r} {words} in {int(bad.count().execute()):,} of {total:,} rows: {_examples(bad, schema)}"


def _duplicates(rows: "ir.Table", schema: Schema, total: int) -> list[str]:
    """Rows that share their key.  Beside pandera: its Ibis backend knows no uniqueness over several columns."""
    groups = rows.group_by(list(schema.key)).aggregate(copies=rows.count())
    twice = groups.filter(groups.copies > 1)
    surplus = twice.aggregate(rows=(twice.copies - 1).sum()).execute()["rows"].iloc[0]
    if surplus is None or not surplus > 0:
        return []
    key = ", ".join(schema.key)
    hint = "" if schema.request else " (name the request's column in data.columns.request if one pair can repeat)"
    return [f"{int(surplus):,} of {total:,} rows repeat the key ({key}){hint}: {_examples(twice, schema)}"]


def _one_class(rows: "ir.Table", schema: Schema, total: int) -> list[str]:
    positives = int(rows.filter(rows[schema.label] == 1).count().execute())
    if 0 < positives < total:
        return []
    value = 1 if positives else 0
    return [
        f"column {schema.label!r} is {value} in all {total:,} rows, and one class teaches nothing: "
        f"{_examples(rows, schema)}"
    ]


def _examples(bad: "ir.Table", schema: Schema) -> str:
    """Up to three rows by their key and label, in a fixed order."""
    columns = [name for name in dict.fromkeys((schema.time, *schema.key, schema.label)) if name in bad.columns]
    some = bad.select(*columns).order_by(columns).limit(EXAMPLES).execute()
    return ", ".join(
        "{" + ", ".join(f"{key}: {value}" for key, value in row.items()) + "}" for row in some.to_dict("records")
    )
