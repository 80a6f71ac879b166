"""The gate against the usual way to an interval: 1,000 bootstraps over users with scikit-learn."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import process_time

import numpy as np

from benchmarks.table import Row
from ranking.comparison import Scored, compare
from ranking.results import ModelRef, Verdict
from ranking.times import Window
from ranking.verdict import GateKnobs, decide

BOOTSTRAPS = 1_000
MEASURED = 5


def run(scale: float) -> list[Row]:
    """Both ways on one million rows of 50,000 users, times ``scale``."""
    from threadpoolctl import threadpool_limits

    scored = holdout(round(1_000_000 * scale), round(50_000 * scale), round(20_000 * scale))
    rows = f"{len(scored.labels):,} rows"
    # One core for both: threads of a linear algebra library that wait for each other would count as work.
    with threadpool_limits(1):
        ours = _cpu_seconds(lambda: gate(scored))
        theirs = _cpu_seconds(lambda: bootstrap(scored, MEASURED)) / MEASURED * BOOTSTRAPS
        weighted = _cpu_seconds(lambda: weighted_bootstrap(scored, MEASURED)) / MEASURED * BOOTSTRAPS
    return [
        _row(f"full gate, 20 slices, {rows}, against a user bootstrap", ours, theirs),
        _row(f"full gate, 20 slices, {rows}, against a bootstrap by weights", ours, weighted),
    ]


def holdout(rows: int, users: int, items: int, seed: int = 0) -> Scored:
    """A simulated holdout of two models with 18 values of a column and two standing slices."""
    rng = np.random.default_rng(seed)
    user = np.minimum((users * rng.random(rows) ** 1.5).astype(np.int64), users - 1)
    item = np.minimum((items * rng.random(rows) ** 2).astype(np.int64), items - 1)
    taste = rng.normal(size=users)[user] * 0.5 + rng.normal(size=items)[item] * 0.5 + 0.6 * rng.normal(size=rows)
    column = rng.integers(0, 18, items)[item]
    slices = {f"category={value}": column == value for value in range(18)}
    return Scored(
        labels=rng.random(rows) < _sigmoid(taste - 2),
        champion=_sigmoid(0.9 * taste + 0.35 * rng.normal(size=rows) - 2),
        challenger=_sigmoid(0.95 * taste + 0.2 * rng.normal(size=rows) - 2),
        users=user,
        items=item,
        row_ids=np.arange(rows),
        slices={"new_users": user % 10 == 0, "cold_items": item % 10 == 0} | slices,
    )


def gate(scored: Scored) -> Verdict:
    """The full comparison, report numbers included, and the verdict with all guardrails."""
    learnt = Window(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 8, tzinfo=UTC))
    tested = Window(start=datetime(2026, 1, 9, tzinfo=UTC), end=datetime(2026, 1, 10, tzinfo=UTC))
    champion, challenger = (
        ModelRef(name="benchmark", version=version, run_id=version, digest=version, learnt=learnt)
        for version in ("1", "2")
    )
    compared = compare(
        scored, champion=champion, challenger=challenger, holdout=tested, snapshot_fingerprint="benchmark"
    )
    return decide(compared, GateKnobs(slice_columns=("category",)))


def bootstrap(scored: Scored, replicates: int) -> list[float]:
    """AUC gains on users drawn with replacement: every row of a drawn user, as often as drawn."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    by_user = np.argsort(scored.users, kind="stable")
    rows = np.bincount(scored.users)
    first = np.cumsum(rows) - rows
    gains = []
    for _ in range(replicates):
        users = rng.integers(0, len(rows), len(rows))
        starts = np.cumsum(rows[users]) - rows[users]
        drawn = by_user[np.repeat(first[users] - starts, rows[users]) + np.arange(rows[users].sum())]
        labels = scored.labels[drawn]
        new, old = (roc_auc_score(labels, scores[drawn]) for scores in (scored.challenger, scored.champion))
        gains.append(new - old)
    return gains


def weighted_bootstrap(scored: Scored, replicates: int) -> list[float]:
    """The same with less work: how often a user was drawn weighs the user's rows."""
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(1)
    users = int(scored.users.max()) + 1
    gains = []
    for _ in range(replicates):
        weights = np.bincount(rng.integers(0, users, users), minlength=users)[scored.users]
        new, old = (
            roc_auc_score(scored.labels, scores, sample_weight=weights)
            for scores in (scored.challenger, scored.champion)
        )
        gains.append(new - old)
    return gains


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the quickest of three calls after one to warm up: neighbours on the machine only add."""
    work()
    took = []
    for _ in range(3):
        started = process_time()
        work()
        took.append(process_time() - started)
    return min(took)


def _row(name: str, ours: float, theirs: float) -> Row:
    return Row(
        name=name,
        ours=ours,
        theirs=theirs,
        ratio=theirs / ours,
        unit="CPU s",
        note=f"{BOOTSTRAPS:,} bootstraps from the mean of {MEASURED}; they give the AUC gain's interval only",
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))
