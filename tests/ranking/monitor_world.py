"""A seeded feed to monitor: weekday season, benign noise, users who come back, and faults that can be planted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from ranking.bins import ColumnKind
from ranking.comparison import Scored
from ranking.counts import Counts, count
from ranking.data_quality import check_quality
from ranking.data_quality.knobs import QualityKnobs
from ranking.drift import DriftKnobs, measure_drift
from ranking.features import Schema
from ranking.performance import Baseline, MaturedDay, PerformanceKnobs, measure_performance
from ranking.reference import Reference, ReferenceKnobs, build_reference
from ranking.times import Window
from ranking.triggers import Arbitration, Memory, Outcome, Signals, TriggerKnobs, arbitrate, settle
from tests.ranking.gate_values import measured

START = datetime(2026, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)
LOG = Schema(user="user", item="item", time="time", label="click", request=None, features=())
NUMBERS = tuple(f"number{place}" for place in range(26))
CATEGORIES = tuple(f"category{place}" for place in range(13))
KINDS = (
    dict.fromkeys(NUMBERS, ColumnKind.NUMERIC)
    | dict.fromkeys(CATEGORIES, ColumnKind.CATEGORICAL)
    | {"score": ColumnKind.SCORE, "click": ColumnKind.LABEL}
)
"""40 features, the score among them, and the label."""

VALUES = [f"v{value}" for value in range(12)]

Day = dict[str, Any]
Fault = Callable[[int, Day], Day]


def window(first: int, last: int) -> Window:
    """From the start of one day to the start of another."""
    return Window(start=START + first * DAY, end=START + last * DAY)


@dataclass(frozen=True)
class FeedWorld:
    """What it looks like on each day; ``fault`` may change a day's columns before they are logged.

    Attributes:
        seed: everything random follows from it.
        rows: rows on a weekday; weekends have a third more.
        users: a few of them come often.
        loss: AUC signal that the champion loses per day since day 28.
        fault: what goes wrong.
    """

    seed: int
    rows: int = 3_000
    users: int = 1_500
    loss: float = 0.0
    fault: Fault = field(default=lambda number, day: day)

    def day(self, number: int) -> pa.Table:
        """The log of one day."""
        rng = np.random.default_rng([self.seed, 1, number])
        weekend = number % 7 >= 5
        rows = round(self.rows * (4 / 3 if weekend else 1) * rng.uniform(0.9, 1.1))
        user = np.minimum((self.users * rng.random(rows) ** 1.4).astype(np.int64), self.users - 1)
        columns = {"user": user, "item": rng.integers(0, 400, rows)}
        columns |= self._columns(number, rng, user, weekend=weekend)
        return pa.table(self.fault(number, columns))

    def _columns(self, number: int, rng: np.random.Generator, user: np.ndarray, *, weekend: bool) -> Day:
        world = np.random.default_rng([self.seed, 0])
        rows = len(user)
        per_user = world.normal(size=(8, self.users))
        season = np.where(np.arange(26) % 3 == 0, 0.35, 0.0) * weekend
        noise = rng.normal(0, 0.08, 26)
        values = rng.standard_normal((26, rows), dtype=np.float32).astype(np.float64) + (season + noise)[:, None]
        values[:8] += per_user[:, user]
        values[8:12] = np.exp(values[8:12])
        values[12:16] = np.where(values[12:16] > 1.0, np.floor(values[12:16] * 3), 0.0)
        values[16:18][rng.random((2, rows)) < 0.1 + 0.01 * rng.normal()] = np.nan
        columns: Day = dict(zip(NUMBERS, values, strict=True))
        for place, name in enumerate(CATEGORIES):
            shares = world.dirichlet(np.full(12, 1.5)) * np.exp(
                rng.normal(0, 0.08, 12) + 0.3 * weekend * (place % 4 == 0)
            )
            codes = np.searchsorted(np.cumsum(shares / shares.sum())[:-1], rng.random(rows))
            columns[name] = pa.DictionaryArray.from_arrays(codes.astype(np.int8), VALUES)
        signal = 0.8 * per_user[0][user] + values[20]
        strength = 1.0 - self.loss * max(number - 28, 0)
        seen = strength * signal + np.sqrt(max(0.0, 1 - strength**2)) * 1.28 * rng.normal(size=rows)
        columns["click"] = (rng.random(rows) < 1 / (1 + np.exp(1.8 - signal))).astype(np.int64)
        columns["score"] = 1 / (1 + np.exp(1.8 - seen - 0.5 * rng.normal(size=rows)))
        seconds = np.sort(rng.integers(0, 86_400 * 1_000_000, rows))
        origin = int((START + number * DAY).timestamp() * 1_000_000)
        columns["time"] = (origin + seconds).astype("datetime64[us]")
        return columns


@dataclass
class Monitored:
    """90 days of it under the arbiter's eye: one check a day, each retraining ends two hours after its start.

    Attributes:
        world: the feed.
        promotes: whether retrainings are promoted, which freezes a new reference.
        days: days after the first 28.
        knobs: of the arbiter.
    """

    world: FeedWorld
    promotes: bool = False
    days: int = 90
    knobs: TriggerKnobs = field(default_factory=TriggerKnobs)
    drift_knobs: DriftKnobs = field(default_factory=DriftKnobs)
    quality_knobs: QualityKnobs = field(default_factory=QualityKnobs)
    decisions: list[Arbitration] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)

    def run(self) -> "Monitored":
        """Check day after day."""
        tables, reference, baseline = first_champion(self.world.seed, self.world.rows, self.world.users)
        tables = list(tables)
        memory = Memory()
        for number in range(28, 28 + self.days):
            tables.append(self.world.day(number))
            now = START + (number + 1) * DAY + timedelta(hours=1)
            signals = self._signals(reference, baseline, tables, number, now)
            decided, memory = arbitrate(signals, memory, self.knobs, now)
            self.decisions.append(decided)
            if decided.flight is not None:
                result = "promoted" if self.promotes else "not_promoted"
                memory = settle(memory, Outcome(key=decided.flight.key, result=result, at=now + timedelta(hours=2)))
                if self.promotes:
                    reference, baseline = promoted(str(number), tables, number + 1)
        return self

    @property
    def retrained(self) -> list[int]:
        """Days of the retrainings, counted from the first monitored one."""
        return [place for place, decided in enumerate(self.decisions) if decided.decision == "retrain"]

    def _signals(
        self, reference: Reference, baseline: Baseline, tables: list[pa.Table], number: int, now: datetime
    ) -> Signals:
        current = counted(reference, tables[number], number)
        quality = check_quality(reference, current, self.quality_knobs)
        if quality.blocks:
            self.incidents.append(quality.sentence)
        days = [matured(tables[day], day) for day in range(number - 3, number)]
        return Signals(
            champion=reference.champion,
            window=current.window,
            quality=quality,
            drift=measure_drift(reference, current, self.drift_knobs),
            performance=measure_performance(days, baseline, PerformanceKnobs(), now=now, label_maturity_hours=24.0),
        )


@cache
def first_champion(seed: int, rows: int, users: int) -> tuple[tuple[pa.Table, ...], Reference, Baseline]:
    """The first 28 days of a world, before any fault, and the champion they make."""
    world = FeedWorld(seed=seed, rows=rows, users=users)
    tables = tuple(world.day(number) for number in range(28))
    return tables, *promoted("1", tables, 28)


def promoted(version: str, tables: Sequence[pa.Table], last: int) -> tuple[Reference, Baseline]:
    """What is frozen of the 28 days before ``last`` when a champion learnt from them is promoted."""
    first = last - 28
    whole = pa.concat_tables(tables[first:last])
    reference = build_reference(whole, KINDS, LOG, champion=version, window=window(first, last), knobs=ReferenceKnobs())
    days = [matured(table, number) for number, table in enumerate(tables[last - 3 : last], last - 3)]
    scored = Scored(
        labels=np.concatenate([day.labels for day in days]),
        challenger=np.concatenate([day.scores for day in days]),
        champion=None,
        users=np.concatenate([day.users for day in days]),
        items=np.concatenate([day.items for day in days]),
        row_ids=np.arange(sum(len(day.labels) for day in days)),
    )
    baseline = Baseline.of(measured(scored, report=False))
    return reference, baseline.model_copy(update={"champion": version})


def counted(reference: Reference, table: pa.Table, number: int) -> Counts:
    """One day in the reference's bins."""
    return count(table, reference.layout, window(number, number + 1))


def matured(table: pa.Table, number: int) -> MaturedDay:
    """One day with its final labels."""
    return MaturedDay(
        window=window(number, number + 1),
        labels=table["click"].to_numpy() == 1,
        scores=table["score"].to_numpy(),
        users=table["user"].to_numpy(),
        items=table["item"].to_numpy(),
    )
