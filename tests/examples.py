"""Small, valid values for tests that need some evidence but not a training."""

from datetime import UTC, datetime, timedelta

import numpy as np

from ranking.comparison import Scored, compare
from ranking.measurements import Costs
from ranking.results import Evidence, ModelRef, ServingCheck, Verdict
from ranking.times import Window
from ranking.verdict import GateKnobs, decide

NOW = datetime(2026, 2, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOLDOUT = Window(start=NOW - 5 * DAY, end=NOW - DAY)


def model(version: str, *, digest: str = "d" * 64) -> ModelRef:
    learnt = Window(start=NOW - 40 * DAY, end=NOW - 6 * DAY)
    return ModelRef(name="feed_ranker", version=version, run_id=f"run{version}", digest=digest, learnt=learnt)


def evidence(*, better: float = 0.8, rows: int = 40_000, champion: str | None = "1", challenger: str = "2") -> Evidence:
    """Evidence about a challenger; ``better`` is how much of the champion's noise it does without."""
    rng = np.random.default_rng(0)
    signal = rng.normal(0, 1, rows)
    noise = rng.normal(0, 1, rows)
    labels = (rng.random(rows) < 1 / (1 + np.exp(1 - signal))).astype(int)

    def scores(share: float) -> np.ndarray:
        # The posterior mean given a noisy view: calibrated whatever the share of noise.
        view = signal + share * noise
        shrink = 1 / (1 + share**2)
        return 1 / (1 + np.exp((1 - shrink * view) / np.sqrt(1 + 0.346 * shrink * share**2)))

    scored = Scored(
        labels=labels,
        challenger=scores(1.0 - better),
        champion=scores(1.0) if champion else None,
        users=rng.integers(0, rows // 20, rows),
        items=rng.integers(0, rows // 40, rows),
        row_ids=np.arange(rows),
        slices={"new_users": rng.random(rows) < 0.2, "cold_items": rng.random(rows) < 0.1},
    )
    comparison = compare(
        scored,
        champion=model(champion) if champion else None,
        challenger=model(challenger),
        holdout=HOLDOUT,
        snapshot_fingerprint="f" * 64,
        serving=ServingCheck(
            passed=True,
            reason="Loaded by MLflow alone in a clean process, version 2 answered as in training.",
            golden_rows=32,
            sampled_rows=512,
            worst_difference=3e-8,
            edge_cases=("one row", "no row"),
            costs=Costs(latency_p99_milliseconds=3.25, size_megabytes=0.31),
        ),
    )
    return Evidence(comparison=comparison, verdict=decide(comparison, GateKnobs()), policy_digest="p" * 64)


def with_verdict(given: Evidence, **changes: object) -> Evidence:
    verdict: Verdict = given.verdict.model_copy(update=changes)
    return given.model_copy(update={"verdict": verdict})
