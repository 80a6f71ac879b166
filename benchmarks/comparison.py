"""The gate against the usual way to an interval: 1,000 bootstraps over users with scikit-learn."""

from datetime import UTC, datetime
from time import process_time

import numpy as np

from ranking.comparison import Scored, compare
from ranking.results import ModelRef, Verdict, Window
from ranking.verdict import GateKnobs, decide

BOOTSTRAPS = 1_000
MEASURED = 5


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
    """AUC gains on users drawn with replacement; how often a user was drawn weighs the user's rows."""
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


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))
