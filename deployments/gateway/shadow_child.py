"""The process in which a challenger scores along, apart from the process that answers users.

It may raise, hang or leak: all that costs is this process.  It ends when its gateway does.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deployments.gateway.features import FeatureSource, RequestFeatures
from deployments.gateway.frames import packed, read
from ranking.bundle import Bundle
from ranking.quick_encoding import QuickScorer
from ranking.serving_features import ServingTable
from tasks.adapters.feature_tables import fetch

_PR_SET_PDEATHSIG = 1

Scorer = Callable[[dict[str, Any]], dict[str, Any]]


def main() -> None:
    """Load what the first message names, then answer one message after the other."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever a library prints must not stand between two messages.
    os.dup2(2, 1)
    _end_with_the_gateway()
    plan = read(questions)
    if plan is None:
        return
    try:
        score = scorer(plan)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with the challenger is told to the gateway)
        answers.write(packed({"error": f"{type(error).__name__}: {error}"}))
        return
    answers.write(packed({"ready": True}))
    answer(questions, answers, score)


def answer(questions: BinaryIO, answers: BinaryIO, score: Scorer) -> None:
    """Score until the gateway ends."""
    while (question := read(questions)) is not None:
        try:
            reply = score(question)
        except Exception as error:  # noqa: BLE001 (whatever the challenger raises is its answer)
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(packed(reply))


def scorer(plan: dict[str, Any]) -> Scorer:
    """What scores the challenger's way.

    Args:
        plan: ``bundle`` (folder), ``digest``, ``features`` (a ``ServingTable`` or null), ``megabytes`` (of memory).

    Raises:
        BundleError: the bundle cannot be used.
        FeaturesError: its features cannot be used.
    """
    limit = int(plan["megabytes"]) * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    bundle = Bundle.load(plan["bundle"], expected_digest=plan["digest"])
    table = plan["features"]
    features: FeatureSource = RequestFeatures(bundle.facts.spec)
    if table is not None:
        features = fetch(ServingTable.model_validate(table))
    quick = QuickScorer(bundle)

    def score(question: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        rows = question_rows(question, features)
        scores = quick.score(rows)
        if not np.isfinite(scores).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are no numbers")
        known = known_shares(rows.take(question["shown"]), bundle.encoder.columns)
        return {"scores": scores.tolist(), "features": known, "ms": 1000 * (time.perf_counter() - started)}

    return score


def question_rows(question: dict[str, Any], features: FeatureSource) -> pa.Table:
    """The rows of one question."""
    return features.rows(
        question["user"],
        question["items"],
        question["context"],
        datetime.fromisoformat(question["at"]),
        question["user_features"],
        question["item_features"],
    )


def known_shares(rows: pa.Table, names: tuple[str, ...]) -> dict[str, float]:
    """Share of rows in which each column has a value."""
    return {name: _known(rows[name]) for name in names}


def _known(column: pa.ChunkedArray) -> float:
    missing = column.is_null(nan_is_null=pa.types.is_floating(column.type))
    return 1.0 - (pc.sum(missing).as_py() or 0) / max(len(column), 1)


def _end_with_the_gateway() -> None:
    """End with the gateway, even while computing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The terminal's Ctrl-C and a service's stop reach the whole group; the gateway decides when this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    main()
