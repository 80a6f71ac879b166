"""The shadow's process with a challenger that has a fault, named by ``$FAULT``."""

import os
import sys
import time
from typing import Any

import pyarrow as pa

from deployments.gateway import shadow_child
from ranking.bundle import Bundle
from ranking.quick_encoding import QuickScorer

_score = QuickScorer.score
_kept: list[bytearray] = []


def raising(scorer: QuickScorer, rows: pa.Table) -> Any:
    raise RuntimeError("planted")


def hanging(scorer: QuickScorer, rows: pa.Table) -> Any:
    while True:  # holds the interpreter's lock, as a busy loop in Python does
        pass


def sleeping(scorer: QuickScorer, rows: pa.Table) -> Any:
    time.sleep(0.2)
    return _score(scorer, rows)


def leaking(scorer: QuickScorer, rows: pa.Table) -> Any:
    _kept.append(bytearray(b"x" * (50 * 2**20)))
    return _score(scorer, rows)


def exiting(scorer: QuickScorer, rows: pa.Table) -> Any:
    os._exit(3)


def nulls(question: dict[str, Any], features: Any) -> pa.Table:
    rows = _rows(question, features)
    return rows.set_column(rows.column_names.index("age"), "age", pa.nulls(rows.num_rows, pa.float64()))


def months(question: dict[str, Any], features: Any) -> pa.Table:
    """The age in months, where training had years."""
    rows = _rows(question, features)
    ages = pa.array([12.0 * age for age in rows["age"].to_pylist()])
    return rows.set_column(rows.column_names.index("age"), "age", ages)


_rows = shadow_child.question_rows
_OF_MODEL = {"raise": raising, "hang": hanging, "sleep": sleeping, "leak": leaking, "exit": exiting}
_OF_FEATURES = {"nulls": nulls, "months": months}

if __name__ == "__main__":
    fault = os.environ.get("FAULT", "")
    if fault == "load":
        Bundle.load = None  # type: ignore[method-assign,assignment]  # so that it cannot even be loaded
    if fault in _OF_MODEL:
        QuickScorer.score = _OF_MODEL[fault]  # type: ignore[method-assign,assignment]  # the fault
    if fault in _OF_FEATURES:
        shadow_child.question_rows = _OF_FEATURES[fault]
    sys.exit(shadow_child.main())
