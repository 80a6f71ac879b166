"""The tables behind serving features, as Ibis expressions: what every key's history is at one moment.

Nothing is defined here a second time.  The log is united with *questions*, rows that ask and leave no trace
(:data:`ranking.history.OBSERVED`): one per user, per item, per attribute value and per pair of user and attribute
that the log has, and one of a key that it has never seen.  :func:`ranking.history.with_history` answers them, as it
answers the rows of a training.
"""

from collections.abc import Callable
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING

import ibis

from ranking.features import FeatureSpec, HistoryKey, Owner
from ranking.history import OBSERVED, with_history

if TYPE_CHECKING:
    import ibis.expr.types as ir

WHICH = "__which"
"""Number of the key that a question asks about."""

LOGGED, UNSEEN = -1, -2


def history_tables(
    log: "ir.Table", spec: FeatureSpec, at: datetime, stage: "Callable[[ir.Table], ir.Table]"
) -> "list[ir.Table]":
    """The history of every known key as of ``at``.

    Args:
        log: the rows that a retraining at ``at`` would read, in canonical types, all before ``at``; at least one.
        spec: what a model reads.
        at: the moment; with the grain ``day`` it answers for the whole UTC day it lies in.
        stage: evaluates a table and keeps the result outside memory, as in :func:`ranking.history.with_history`.

    Returns:
        One table per key of ``spec.history_keys``: the key's columns and its history, in the order of the key.  The
        row whose key columns are null is what a key gets that the log has never seen.
    """
    if not spec.history_keys:
        return []
    columns = tuple(dict.fromkeys(column for key in spec.history_keys for column in key.columns))
    seen = log.select(*columns, spec.log.time, spec.log.label, **{OBSERVED: True, WHICH: ibis.literal(LOGGED, "int64")})
    questions = [_questions(log, key, number, spec, at, columns) for number, key in enumerate(spec.history_keys)]
    rows = reduce(lambda one, other: one.union(other), [seen, *questions, _unseen(log, spec, at, columns)])
    answers = stage(with_history(rows, spec, stage, answers_only=True))
    return [_answers(answers, key, number, spec) for number, key in enumerate(spec.history_keys)]


def profiles(log: "ir.Table", spec: FeatureSpec, owner: Owner) -> "ir.Table | None":
    """The logged features of every user (or item) as its latest row has them; None if the log has no such features.

    Args:
        log: canonical rows.
        spec: roles and features.
        owner: whose; the context has none.
    """
    key = spec.log.user if owner is Owner.USER else spec.log.item
    names = [feature.name for feature in spec.log.features if feature.owner is owner]
    if not names:
        return None
    # The rest of the row's key decides between rows of one instant, so that the same log gives the same table.
    others = [log[name] for name in spec.log.key if name not in (key, spec.log.time)]
    place = ibis.row_number().over(group_by=log[key], order_by=[log[spec.log.time].desc(), *others])
    placed = log.select(key, *names, __place=place)
    return placed.filter(placed["__place"] == 0).select(key, *names).order_by(key)


def _questions(
    log: "ir.Table", key: HistoryKey, number: int, spec: FeatureSpec, at: datetime, columns: tuple[str, ...]
) -> "ir.Table":
    known = log.filter(*(log[column].notnull() for column in key.columns)).select(*key.columns).distinct()
    cells = {column: known[column] if column in key.columns else ibis.null(log[column].type()) for column in columns}
    return known.select(**cells, **_asking(log, number, spec, at))


def _unseen(log: "ir.Table", spec: FeatureSpec, at: datetime, columns: tuple[str, ...]) -> "ir.Table":
    """One question whose every key is new to the log."""
    ends = log.aggregate(
        **{f"max_{column}": log[column].max() for column in columns},
        **{f"min_{column}": log[column].min() for column in columns},
    )
    cells = {column: _new(ends[f"max_{column}"], ends[f"min_{column}"]) for column in columns}
    return ends.select(**cells, **_asking(log, UNSEEN, spec, at))


def _new(highest: "ir.Value", lowest: "ir.Value") -> "ir.Value":
    """A value that is not in a column with these ends."""
    kind = highest.type()
    if kind.is_string():
        # A text is smaller than itself with something behind it.
        return highest.fill_null("") + "!"
    if kind.is_floating():
        # Canonical numbers are finite.
        return ibis.literal(float("inf")).cast(kind)
    top = ibis.literal(2**63 - 1, "int64")
    return ibis.cases((highest < top, highest + 1), (lowest.notnull(), lowest - 1), else_=0).cast(kind)


def _asking(log: "ir.Table", number: int, spec: FeatureSpec, at: datetime) -> "dict[str, ir.Value]":
    return {
        spec.log.time: ibis.literal(at).cast(log[spec.log.time].type()),
        spec.log.label: ibis.null(log[spec.log.label].type()),
        OBSERVED: ibis.literal(False),
        WHICH: ibis.literal(number, "int64"),
    }


def _answers(answers: "ir.Table", key: HistoryKey, number: int, spec: FeatureSpec) -> "ir.Table":
    own = answers.filter(answers[WHICH].isin([number, UNSEEN]))
    new = own[WHICH] == UNSEEN
    cells = {column: ibis.ifelse(new, ibis.null(own[column].type()), own[column]) for column in key.columns}
    return own.select(**cells, **{name: own[name] for name in spec.history_names(key)}).order_by(list(key.columns))
