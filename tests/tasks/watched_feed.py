"""A champion that serves a small feed, and the feed's log: what the tests of monitoring look at."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from ranking.data_quality.checks import Quality
from ranking.drift import Drift
from ranking.ledger import Operation
from ranking.measurements import Estimate
from ranking.monitoring import Frozen, Scores, Weighed, last_day
from ranking.results import ModelRef
from ranking.triggers import Signals
from settings.loading import load
from settings.model import Settings
from tasks.adapters.ledger import Draft
from tasks.arbiter import weigh
from tasks.frozen import champion_reference
from tasks.monitoring import check_data, check_drift, read_window, score_days, signals_of
from tests.tasks.tiny_models import LEARNT, NOW, Shop, evidence_about, open_shop, with_database

TOML = """
[data]
uri = "log"
label_delay_hours = 2
[data.columns]
user = "user_id"
item = "item_id"
label = "click"
time = "timestamp"
[data.columns.user_features]
numeric = ["age"]
[data.columns.context_features]
categorical = ["device"]
[history]
enabled = false
"""

DAY = timedelta(days=1)
FIRST = NOW - timedelta(days=30)
Fault = Callable[[pd.DataFrame], pd.DataFrame]


def aged(day: pd.DataFrame) -> pd.DataFrame:
    """The audience is another one: everybody is fifteen years older."""
    return day.assign(age=day["age"] + 15)


def nulled(day: pd.DataFrame) -> pd.DataFrame:
    """A feature that was not delivered."""
    return day.assign(age=np.nan)


def doubled(day: pd.DataFrame) -> pd.DataFrame:
    """A delivery that came twice."""
    return pd.concat([day, day], ignore_index=True)


def one_day(number: int, rows: int = 1_500) -> pd.DataFrame:
    """Rows of 24 hours, counted from the first that the champion learnt from."""
    rng = np.random.default_rng([7, number])
    seconds = np.sort(rng.uniform(0, 86_400, rows))
    return pd.DataFrame(
        {
            "user_id": rng.integers(1, 400, rows),
            "item_id": [f"item-{place}" for place in rng.integers(1, 60, rows)],
            "age": rng.integers(18, 70, rows).astype("float64"),
            "device": rng.choice(["phone", "desktop"], rows),
            "timestamp": (pd.Timestamp(FIRST + number * DAY) + pd.to_timedelta(seconds, unit="s")).as_unit("us"),
            "click": (rng.random(rows) < 0.3).astype(int),
        }
    )


@dataclass(frozen=True)
class Check:
    """What one check found."""

    frozen: Frozen
    quality: Quality
    scores: Scores
    drift: Drift
    signals: Signals
    weighed: Weighed

    @property
    def reason(self) -> str:
        return self.weighed.decision.reason


@dataclass
class Feed:
    """The project: a folder with settings, log and registry; from ``since`` on its log has a fault."""

    folder: Path
    shop: Shop
    champion: ModelRef
    fault: Fault = aged
    since: datetime = FIRST + 10_000 * DAY

    @property
    def config(self) -> Path:
        return self.folder / "feedloop.toml"

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def live(self, now: datetime) -> None:
        """Let the log reach until a moment, and no further."""
        (self.folder / "log").mkdir(exist_ok=True)
        for number in range(int((now - FIRST) / DAY) + 1):
            file = self.folder / "log" / f"day-{number:03d}.parquet"
            if file.exists() and FIRST + (number + 2) * DAY < now:
                continue
            day = one_day(number)
            day = day[day["timestamp"] < now]
            faulty = day["timestamp"] >= self.since
            pd.concat([day[~faulty], self.fault(day[faulty])], ignore_index=True).to_parquet(file, index=False)

    def check(self, now: datetime) -> Check:
        """One check, its tasks called as the flow calls them, of the log as it is then."""
        self.live(now)
        settings, maturity, champion = self.settings, self.settings.maturity_hours, self.champion
        frozen = champion_reference.fn(
            champion=champion,
            data=settings.data,
            knobs=settings.drift,
            maturity_hours=maturity,
            now=now,
            **settings.store,
        )
        counts = read_window.fn(
            frozen=frozen, data=settings.data, window=last_day(now), now=now, maturity_hours=maturity
        )
        quality = check_data.fn(frozen=frozen, counts=counts, knobs=settings.quality)
        scores = score_days.fn(
            champion=champion,
            frozen=frozen,
            quality=quality,
            data=settings.data,
            knobs=settings.performance,
            maturity_hours=maturity,
            now=now,
            **settings.store,
        )
        drift = check_drift.fn(frozen=frozen, counts=counts, scores=scores, knobs=settings.drift)
        signals = signals_of(champion, quality, drift, scores, None)
        weighed = weigh.fn(signals=signals, knobs=settings.triggers, now=now, **settings.store)
        return Check(frozen, quality, scores, drift, signals, weighed)


def open_feed(folder: Path, *, auc: float = 0.5, toml: str = "") -> Feed:
    """A champion that learnt from 28 days, was promoted on the next 2, and whose AUC is said to have been ``auc``."""
    workspace = folder / "workspace"
    workspace.mkdir(parents=True)
    (folder / "feedloop.toml").write_text(f'workspace = "workspace"\n{TOML}{toml}')
    return with_champion(folder, open_shop(with_database(workspace)), auc=auc)


def with_champion(folder: Path, shop: Shop, *, auc: float = 0.5) -> Feed:
    """The same in a project that has its settings and an empty registry."""
    ref = shop.register(1)
    evidence = evidence_about(ref, None)
    metric = evidence.comparison.auc.model_copy(
        update={"challenger": Estimate(value=auc, se=0.004, low=auc - 0.01, high=auc + 0.01)}
    )
    comparison = evidence.comparison.model_copy(update={"auc": metric, "snapshot_fingerprint": "gone"})
    evidence = evidence.model_copy(
        update={"comparison": comparison, "policy_digest": load(folder / "feedloop.toml").policy_digest}
    )
    shop.registry.record(ref, evidence)
    shop.ledger.append(
        Draft(
            operation=Operation.PROMOTE,
            before=None,
            after=ref.version,
            subject=ref.version,
            digest=ref.digest,
            evidence_digest=evidence.digest,
            forced=False,
            actor="ada",
            reason="the first",
            at=NOW,
        ),
        None,
    )
    assert ref.learnt == LEARNT
    return Feed(folder, shop, ref)
