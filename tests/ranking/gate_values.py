"""Comparisons to judge: built by hand for the rule, measured on small arrays for the rest."""

from datetime import UTC, datetime, timedelta

import numpy as np

from ranking.comparison import Scored, compare
from ranking.measurements import Costs, Estimate, MetricComparison, ScoreHealth
from ranking.results import Comparison, ModelRef, ServingCheck
from ranking.times import Window

START = datetime(2026, 1, 1, tzinfo=UTC)


def days(first: float, last: float) -> Window:
    return Window(start=START + timedelta(days=first), end=START + timedelta(days=last))


LEARNT, HOLDOUT = days(0, 8), days(9, 10)


def model(version: str, learnt: Window | None = LEARNT) -> ModelRef:
    return ModelRef(name="feed_ranker", version=version, run_id=f"run{version}", digest=version * 8, learnt=learnt)


CHAMPION, CHALLENGER = model("1"), model("2")
SERVES = ServingCheck(
    passed=True,
    reason="Version 2 answered as in training.",
    golden_rows=32,
    sampled_rows=512,
    worst_difference=1e-8,
    costs=Costs(latency_p99_milliseconds=4.0, size_megabytes=9.0),
)


def metric(name: str, champion: float | None, challenger: float | None, se: float | None = 0.0) -> MetricComparison:
    """A metric with the same standard error for both models and for the difference."""
    both = champion is not None and challenger is not None
    return MetricComparison(
        name=name,
        higher_is_better=None,
        champion=None if champion is None else Estimate(value=champion, se=se),
        challenger=None if challenger is None else Estimate(value=challenger, se=se),
        difference=Estimate(value=challenger - champion, se=se) if both else None,
    )


def comparison(
    champion_auc: float = 0.70, challenger_auc: float = 0.72, se: float | None = 0.001, **changes: object
) -> Comparison:
    """A comparison of a clearly better challenger, unless changed."""
    fields = {
        "champion": CHAMPION,
        "challenger": CHALLENGER,
        "snapshot_fingerprint": "f" * 64,
        "holdout": HOLDOUT,
        "holdout_digest": "d" * 64,
        "rows": 50_000,
        "positives": 10_000,
        "users": 2_000,
        "items": 1_000,
        "auc": metric("auc", champion_auc, challenger_auc, se),
        "log_loss": metric("log_loss", 0.40, 0.39, 0.0005),
        "gauc": metric("gauc", 0.65, 0.67, 0.002),
        "calibration": metric("calibration", 1.0, 1.01, 0.01),
        "constant_log_loss": 0.5,
        "challenger_scores": ScoreHealth(missing=0, outside=0, certain=0, lowest=0.01, highest=0.9, mean=0.2),
        "score_correlation": 0.95,
        "serving": SERVES,
    }
    return Comparison(**(fields | changes))


def measured(scored: Scored, **changes: object) -> Comparison:
    """What ``compare`` makes of arrays, with models and windows that do not matter."""
    fields = {
        "champion": None if scored.champion is None else CHAMPION,
        "challenger": CHALLENGER,
        "holdout": HOLDOUT,
        "snapshot_fingerprint": "f" * 64,
        "serving": SERVES,
    }
    return compare(scored, **(fields | changes))


def random_scored(rows: int, users: int, items: int, seed: int = 0, **changes: object) -> Scored:
    """A noisy champion and a better challenger on random users and items."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=rows)
    chance = 1 / (1 + np.exp(1 - signal))
    logits = {
        "champion": 0.8 * signal + 0.5 * rng.normal(size=rows),
        "challenger": signal + 0.1 * rng.normal(size=rows),
    }
    fields = {
        "labels": rng.random(rows) < chance,
        "users": rng.integers(0, users, rows),
        "items": rng.integers(0, items, rows),
        "row_ids": np.arange(rows),
        **{name: 1 / (1 + np.exp(1 - logit)) for name, logit in logits.items()},
    }
    return Scored(**(fields | changes))
