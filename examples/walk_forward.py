"""Is retraining worth it?  Walk a log forward week by week: a model retrained every week against a frozen one.

    python -m examples.walk_forward --config examples/movielens.toml

Every week both models score the same unseen rows.  The frozen one learnt from the first weeks only, the other from
everything before the week.
"""

import argparse
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from ranking.bundle import Bundle
from ranking.metrics import auc, log_loss
from ranking.results import FeatureTable, Snapshot
from ranking.times import Window
from ranking.training import fit
from settings.loading import load
from settings.model import Settings
from tasks.clock import moment
from tasks.data import build_features, load_rows, take_snapshot

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Week:
    """One week's rows and how both models did on them."""

    start: datetime
    rows: int
    retrained_auc: float
    frozen_auc: float
    retrained_log_loss: float
    frozen_log_loss: float


def prepared(settings: Settings) -> tuple[Snapshot, FeatureTable]:
    """The configured log as a snapshot with features."""
    now = moment.fn()
    snapshot = take_snapshot.fn(data=settings.data, cutoff=None, now=now, workspace=settings.workspace)
    spec = settings.feature_spec(snapshot.log)
    return snapshot, build_features.fn(snapshot=snapshot, spec=spec, **settings.engine)


def train_until(features: FeatureTable, start: datetime, end: datetime, settings: Settings) -> Bundle:
    """A model of everything between two moments; the last tenth by time decides when to stop."""
    rows = load_rows(features, Window(start=start, end=end))
    time = features.spec.log.time
    cut = rows[time][int(len(rows) * 0.9)].as_py()
    late = pa.array(np.asarray(rows[time].to_numpy() >= np.datetime64(cut.replace(tzinfo=None))))
    return fit(
        rows.filter(pa.compute.invert(late)),
        rows.filter(late),
        spec=features.spec,
        learnt=Window(start=start, end=end),
        model=settings.model,
        knobs=settings.training,
        seed=settings.seed,
    ).bundle


def walk(settings: Settings, *, first_weeks: int = 8, every: int = 1) -> list[Week]:
    """Score each week with a fresh and with the frozen model.

    Args:
        settings: the log and the model.
        first_weeks: what the frozen model learns from.
        every: look at every n-th week only.
    """
    snapshot, features = prepared(settings)
    label, time = features.spec.log.label, features.spec.log.time
    start = load_rows(features, snapshot.window, [time])[time][0].as_py()
    frozen = train_until(features, start, start + first_weeks * WEEK, settings)
    weeks = []
    at = start + first_weeks * WEEK
    while at < snapshot.cutoff:
        rows = load_rows(features, Window(start=at, end=min(at + WEEK, snapshot.cutoff)))
        labels = rows[label].to_numpy().astype(bool)
        if 0 < labels.sum() < len(labels):
            fresh = train_until(features, start, at, settings).score(rows)
            weeks.append(_week(at, labels, fresh, frozen.score(rows)))
        at += every * WEEK
    return weeks


def _week(start: datetime, labels: np.ndarray, fresh: np.ndarray, frozen: np.ndarray) -> Week:
    return Week(
        start=start,
        rows=len(labels),
        retrained_auc=auc(labels, fresh) or 0.0,
        frozen_auc=auc(labels, frozen) or 0.0,
        retrained_log_loss=log_loss(labels, fresh),
        frozen_log_loss=log_loss(labels, frozen),
    )


def main() -> None:
    """Print the walk as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--every", type=int, default=1, help="look at every n-th week only")
    arguments = parser.parse_args()
    weeks = walk(load(arguments.config), every=arguments.every)
    table = Table("week", "rows", "AUC retrained", "AUC frozen", "log loss retrained", "log loss frozen")
    for week in weeks:
        numbers = (week.retrained_auc, week.frozen_auc, week.retrained_log_loss, week.frozen_log_loss)
        table.add_row(f"{week.start:%Y-%m-%d}", f"{week.rows:,}", *(f"{number:.4f}" for number in numbers))
    means = [
        float(np.mean([getattr(week, name) for week in weeks]))
        for name in ("retrained_auc", "frozen_auc", "retrained_log_loss", "frozen_log_loss")
    ]
    table.add_section()
    table.add_row("mean", f"{sum(week.rows for week in weeks):,}", *(f"{mean:.4f}" for mean in means))
    Console().print(table)


if __name__ == "__main__":
    main()
