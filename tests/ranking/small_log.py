"""A small click log that the ranker's tests learn from, and what goes with it."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from ranking.features import ColumnKnobs, FeatureGroup, FeatureSpec, HistoryKnobs, resolve
from ranking.models import DeepMLPKnobs, ModelKnobs
from ranking.times import Window
from ranking.training import Fitted, TrainingKnobs, fit

WEEK = Window(start=datetime(2026, 1, 1, tzinfo=UTC), end=datetime(2026, 1, 8, tzinfo=UTC))

ROLES = ColumnKnobs(
    user_features=FeatureGroup(categorical=("user_city",), numeric=("user_age",)),
    item_features=FeatureGroup(categorical=("item_genre",), numeric=("item_price",)),
    context_features=FeatureGroup(categorical=("ctx_hour",)),
)


def click_log(rows: int = 1500, seed: int = 0) -> pa.Table:
    """Clicks that follow the item's genre and the user's age, with nulls and a heavy-tailed price."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 60, rows), rng.integers(0, 40, rows)
    age = rng.normal(40, 10, 60)[user]
    logit = 1.5 * (item % 3 == 0) - 0.8 * (item % 3 == 1) + 0.05 * (age - 40)
    genres = np.array(["news", "sport", "music"])
    return pa.table(
        {
            "user_id": pa.array([f"u{code}" for code in user]),
            "item_id": pa.array(item),
            "timestamp": pa.array(np.arange(rows), pa.timestamp("s", "UTC")),
            "click": pa.array((rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)),
            "user_city": pa.array([None if code % 7 == 0 else f"city {code % 5}" for code in user]),
            "user_age": pa.array(age, mask=rng.random(rows) < 0.1),
            "item_genre": pa.array(genres[item % 3]),
            "item_price": pa.array(np.exp(rng.normal(2, 1.5, 40))[item]),
            "ctx_hour": pa.array(rng.integers(0, 24, rows).astype(np.int8)),
        }
    )


def specification(log: pa.Table) -> FeatureSpec:
    """All of the log's features, no history."""
    return FeatureSpec(log=resolve(ROLES, log.column_names), history=HistoryKnobs(enabled=False))


def fitted(
    rows: int = 1500, *, seed: int = 0, model: ModelKnobs | None = None, knobs: TrainingKnobs | None = None
) -> Fitted:
    """A ranker fitted on a small log, the last fifth of it as validation."""
    log = click_log(rows)
    cut = rows * 4 // 5
    return fit(
        log.slice(0, cut),
        log.slice(cut),
        spec=specification(log),
        learnt=WEEK,
        model=model or DeepMLPKnobs(),
        knobs=knobs or TrainingKnobs(batch_rows=128, max_epochs=3, accelerator="cpu"),
        seed=seed,
    )
