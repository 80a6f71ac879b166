"""The seeded sample feed: a small world whose truth is known.

Users have tastes that drift, items have topics, appear every day and grow old, some of them burst, the
whole audience follows trends, and a click is known only some time after the impression.  Whoever ranks
decides what is seen, so the log carries the bias of the ranker in charge, as real logs do.

Everything follows from ``WorldKnobs`` and the ranker's scores: the same seed and the same ranker give the
same log, day by day, in whatever order or process the days are asked for.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import AwareDatetime, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ranking.features import ColumnKnobs, FeatureGroup
from ranking.values import Knobs

Ranker = Callable[[pd.DataFrame], np.ndarray]
"""Scores candidates: a frame of C rows to (C,) floats, the higher the sooner shown."""

CLICK_AT = "click_at"
TRUTH = "true_click_probability"
DEVICES = np.array(["phone", "tablet", "desktop"], dtype=object)
AGE_BANDS = np.array(["-24", "25-34", "35-49", "50+"], dtype=object)
TASTE_SPREAD, TREND_SPREAD, SEGMENT_SPREAD = 0.75, 0.4, 1.1
"""Standard deviations of single tastes, of the categories' popularity, and of what age bands think of categories."""

HOURS = np.arange(24)
HOUR_WEIGHTS = 1.0 + 0.8 * np.sin((HOURS - 9) / 24 * 2 * np.pi) + 0.5 * (np.abs(HOURS - 20) <= 2)


class WorldKnobs(Knobs):
    """How large and how restless the sample feed is."""

    seed: NonNegativeInt = Field(default=1, description="Everything random in the world follows from it.")
    start: AwareDatetime = Field(
        default=datetime.fromisoformat("2026-01-05T00:00:00+00:00"), description="First midnight of the world (UTC)."
    )
    users: PositiveInt = Field(default=1500, description="How many users visit the feed.")
    items: PositiveInt = Field(default=300, description="Items on offer on the first day.")
    new_items_per_day: NonNegativeInt = Field(default=12, description="Items that appear every day.")
    categories: PositiveInt = Field(default=8, description="Item categories.")
    taste_dimensions: PositiveInt = Field(default=6, description="Dimensions of tastes and topics.")
    requests_per_day: PositiveInt = Field(default=1500, description="Feed requests per day.")
    candidates_per_request: PositiveInt = Field(default=24, description="Items the ranker chooses from.")
    slate_size: PositiveInt = Field(default=8, description="Items shown per request.")
    exploration_share: float = Field(
        default=0.4, ge=0, le=1, description="Share of requests shown in random order, whoever ranks."
    )
    taste_drift_per_day: NonNegativeFloat = Field(
        default=0.05, description="Standard deviation of a day's change of each user's taste."
    )
    trend_drift_per_day: NonNegativeFloat = Field(
        default=0.08, description="Standard deviation of a day's change of each category's popularity."
    )
    segment_drift_per_day: NonNegativeFloat = Field(
        default=0.3, description="Standard deviation of a day's change of what each age band thinks of each category."
    )
    bursts_per_day: NonNegativeFloat = Field(default=0.5, description="Items that suddenly get popular, per day.")
    mean_click_delay_minutes: PositiveFloat = Field(default=20.0, description="Mean time from impression to click.")
    label_delay_hours: PositiveFloat = Field(default=2.0, description="Time after which every click is known.")


SAMPLE_COLUMNS = ColumnKnobs(
    user="user_id",
    item="item_id",
    time="timestamp",
    label="click",
    request="request_id",
    exploration="explored",
    user_features=FeatureGroup(categorical=("user_device", "user_age_band")),
    item_features=FeatureGroup(categorical=("item_category", "item_creator"), numeric=("item_age_hours",)),
    context_features=FeatureGroup(categorical=("ctx_hour",)),
)
"""The column roles of the sample feed's log."""

SAMPLE_ATTRIBUTES = ("item_category",)
"""Item columns of the sample feed whose history counts."""

SAMPLE_WINDOW_DAYS, SAMPLE_WARMUP_DAYS, SAMPLE_HOLDOUT_DAYS = 14.0, 3.0, 4.0
"""How much of the sample feed one retraining reads, and for what: its tastes change within weeks."""

SAMPLE_HISTORY_DAYS = (3,)
"""Look-back of its history features; counts since the start would grow beyond what a model learnt from."""

SAMPLE_GRAIN: Literal["event", "day"] = "day"
"""Its feature table is made every midnight: a model that learnt from fresher histories would miss them live."""


class World:
    """A seeded feed.  ``day`` is its only verb: let a ranker serve one day and get the log."""

    def __init__(self, knobs: WorldKnobs) -> None:
        self.knobs = knobs
        rng = np.random.default_rng([knobs.seed, 0])
        self._user_device = rng.choice(DEVICES, knobs.users, p=[0.65, 0.1, 0.25])
        self._user_age = rng.integers(0, len(AGE_BANDS), knobs.users)
        self._user_bias = rng.normal(0, 0.7, knobs.users)
        self._user_activity = rng.lognormal(0, 0.7, knobs.users)
        self._category_topic = rng.normal(0, 1, (knobs.categories, knobs.taste_dimensions))
        self._items, self._topics = self._make_items()
        self._tastes = [rng.normal(0, TASTE_SPREAD, (knobs.users, knobs.taste_dimensions))]
        self._trends = [rng.normal(0, TREND_SPREAD, knobs.categories)]
        self._segments = [rng.normal(0, SEGMENT_SPREAD, (len(AGE_BANDS), knobs.categories))]

    def day(self, number: int, ranker: Ranker | None = None) -> pd.DataFrame:
        """Let ``ranker`` serve day ``number`` (0 is the first).

        Args:
            number: which day.
            ranker: scores candidates given in time order; ``None`` shows the newest items first, with chance.

        Returns:
            What was shown, in time order: the columns of :data:`SAMPLE_COLUMNS`, ``position`` (0 is the
            top), ``explored`` (shown in random order), ``click_at`` (time of the click, NaT without one) and
            ``true_click_probability``.
        """
        rng = np.random.default_rng([self.knobs.seed, 1, number])
        candidates = self.candidates(number, rng)
        size = self.knobs.candidates_per_request
        newest_first = -candidates["item_age_hours"].to_numpy() / 24 + rng.gumbel(0, 4.0, len(candidates))
        visible = candidates.drop(columns=[TRUTH])
        scores = newest_first if ranker is None else np.asarray(ranker(visible), dtype=float)
        explore = rng.random(self.knobs.requests_per_day) < self.knobs.exploration_share
        scores = np.where(np.repeat(explore, size), rng.random(len(candidates)), scores)
        order = np.argsort(-scores.reshape(-1, size), axis=1, kind="stable")[:, : self.knobs.slate_size]
        rows = (order + np.arange(len(order))[:, None] * size).ravel()
        shown = candidates.iloc[rows].reset_index(drop=True)
        shown["position"] = np.tile(np.arange(order.shape[1]), len(order))
        shown["explored"] = np.repeat(explore, order.shape[1])
        return self._clicks(shown, rng)

    def _clicks(self, shown: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        probability = shown[TRUTH].to_numpy() * seen_at(shown["position"].to_numpy())
        clicked = rng.random(len(shown)) < probability
        delay = rng.exponential(self.knobs.mean_click_delay_minutes, len(shown)).clip(
            0.01, self.knobs.label_delay_hours * 59
        )
        at = shown["timestamp"] + pd.to_timedelta(delay, unit="m").as_unit("us")
        shown[TRUTH], shown[CLICK_AT], shown["click"] = probability, at.where(clicked), clicked.astype("int8")
        return shown

    def candidates(self, number: int, rng: np.random.Generator, visitors: int | None = None) -> pd.DataFrame:
        """Who comes on a day, and what could be shown: one row per candidate, requests in time order.

        Args:
            number: which day.
            rng: decides who comes when, and what is on offer.
            visitors: only so many of the users come; None is all.
        """
        knobs = self.knobs
        weights = np.where(np.arange(knobs.users) < (visitors or knobs.users), self._user_activity, 0.0)
        weights /= weights.sum()
        user = rng.choice(knobs.users, knobs.requests_per_day, p=weights)
        hour = rng.choice(24, knobs.requests_per_day, p=HOUR_WEIGHTS / HOUR_WEIGHTS.sum())
        second = np.sort(hour * 3600 + rng.random(knobs.requests_per_day) * 3600)
        alive = self._items.query("born <= @number")
        freshness = np.exp(-(number - alive["born"].to_numpy()).clip(0, 60) / 20.0)
        # Gumbel top-k draws without replacement for every request at once.
        keys = np.log(freshness) + rng.gumbel(size=(knobs.requests_per_day, len(alive)))
        chosen = np.argpartition(-keys, knobs.candidates_per_request, axis=1)[:, : knobs.candidates_per_request]
        item = alive.index.to_numpy()[chosen.ravel()]
        return self._frame(number, np.repeat(user, chosen.shape[1]), item, np.repeat(second, chosen.shape[1]))

    def _frame(self, number: int, user: np.ndarray, item: np.ndarray, second: np.ndarray) -> pd.DataFrame:
        items = self._items.iloc[item]
        midnight = pd.Timestamp(self.knobs.start + timedelta(days=number)).as_unit("us")
        category = items["category"].to_numpy()
        age_days = number - items["born"].to_numpy() + second / 86400
        logit = (
            -2.3
            + self._user_bias[user]
            + items["quality"].to_numpy()
            + (self._taste(number)[user] * self._topics[item]).sum(axis=1)
            + self._trend(number)[category]
            + self._segment(number)[self._user_age[user], category]
            + 2.0 * np.exp(-np.abs(number - items["burst"].to_numpy()) / 1.5)
            - 0.02 * age_days.clip(0, 40)
        )
        request = np.repeat(np.arange(self.knobs.requests_per_day), self.knobs.candidates_per_request)
        return pd.DataFrame(
            {
                "request_id": number * 1_000_000 + request,
                "user_id": user.astype("int64"),
                "item_id": item.astype("int64"),
                "timestamp": midnight + pd.to_timedelta((second * 1e6).astype("int64"), unit="us"),
                "user_device": self._user_device[user],
                "user_age_band": AGE_BANDS[self._user_age[user]],
                "item_category": np.char.add("c", category.astype(str)).astype(object),
                "item_creator": np.char.add("creator", items["creator"].to_numpy().astype(str)).astype(object),
                "item_age_hours": (age_days * 24).round(3),
                "ctx_hour": (second // 3600).astype("int64").astype(str).astype(object),
                TRUTH: 1 / (1 + np.exp(-logit)),
            }
        )

    def _make_items(self) -> tuple[pd.DataFrame, np.ndarray]:
        """Every item of the first 400 days, in order of birth, and what each is about (items, taste_dimensions)."""
        knobs = self.knobs
        rng = np.random.default_rng([knobs.seed, 2])
        days = 400
        count = knobs.items + knobs.new_items_per_day * days
        born = np.concatenate(
            [-rng.integers(0, 30, knobs.items), np.repeat(np.arange(1, days + 1), knobs.new_items_per_day)]
        )
        category = rng.integers(0, knobs.categories, count)
        topics = 0.35 * (self._category_topic[category] + rng.normal(0, 0.8, (count, knobs.taste_dimensions)))
        bursts = rng.random(count) < min(1.0, knobs.bursts_per_day * days / count)
        items = pd.DataFrame(
            {
                "born": born,
                "category": category,
                "creator": rng.integers(0, 60, count),
                "quality": rng.normal(0, 0.9, count),
                "burst": np.where(bursts, born + rng.integers(2, 15, count), 10_000),
            }
        )
        return items, topics

    def _taste(self, number: int) -> np.ndarray:
        """Tastes on a day, (users, taste_dimensions)."""
        return _walked(self._tastes, number, TASTE_SPREAD, self.knobs.taste_drift_per_day, [self.knobs.seed, 3])

    def _trend(self, number: int) -> np.ndarray:
        """Popularity of each category on a day, (categories,)."""
        return _walked(self._trends, number, TREND_SPREAD, self.knobs.trend_drift_per_day, [self.knobs.seed, 4])

    def _segment(self, number: int) -> np.ndarray:
        """What each age band thinks of each category on a day, (age bands, categories)."""
        return _walked(self._segments, number, SEGMENT_SPREAD, self.knobs.segment_drift_per_day, [self.knobs.seed, 5])


def seen_at(position: np.ndarray) -> np.ndarray:
    """How much attention a position gets, as a share of the top's (0 is the top)."""
    return np.asarray(1.0 / (1.0 + 0.06 * position))


def _walked(days: list[np.ndarray], number: int, spread: float, drift: float, seed: list[int]) -> np.ndarray:
    """The state of a day: a walk with steps of ``drift`` that is pulled back so that its spread stays the same."""
    step = min(drift, spread)
    kept = float(np.sqrt(1.0 - (step / spread) ** 2))
    while len(days) <= number:
        rng = np.random.default_rng([*seed, len(days)])
        days.append(kept * days[-1] + rng.normal(0, step, days[-1].shape))
    # What rises for some falls for others: tastes change, the number of clicks on the whole feed hardly does.
    return np.asarray(days[number] - days[number].mean(axis=0))


def as_known_at(log: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """The log as the data team has it at ``now``: no later rows, and no click that has not happened yet.

    Args:
        log: rows of :meth:`World.day`.
        now: the moment of looking.

    Returns:
        The columns of :data:`SAMPLE_COLUMNS` and ``position``; the truth and the click times are left out.
    """
    known = log[log["timestamp"] < now]
    click = known["click"].where(~(known[CLICK_AT] > now), 0).astype("int8")
    return known.assign(click=click).drop(columns=[CLICK_AT, TRUTH]).reset_index(drop=True)
