"""Live traffic of the sample feed: who asks for a page, and what is clicked on it, whoever ranks.

The visitors are those of :mod:`ranking.world`; their clicks follow its truth.  Everything is drawn before anybody
ranks: each candidate of each page carries its own luck, so that the same item at the same position of the same page
is clicked or not whichever model put it there, in however many ticks the day is asked for.
"""

import zlib
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from ranking.errors import SettingsError
from ranking.world import CLICK_AT, SAMPLE_COLUMNS, TRUTH, World, WorldKnobs, seen_at

FIRST_REQUEST = 500_000
"""Requests of live traffic are numbered from here within a day; the feed's own days number theirs from 0."""

CROWD = 1_000_000_000
"""Requests of one crowd, all days together: two crowds on one day must not answer for each other's clicks."""

LUCK, DELAY = "luck", "delay_minutes"
REQUEST, USER, ITEM, TIME = "request_id", "user_id", "item_id", "timestamp"
ITEM_FEATURES = (*SAMPLE_COLUMNS.item_features.categorical, *SAMPLE_COLUMNS.item_features.numeric)
CONTEXT_FEATURES = (*SAMPLE_COLUMNS.context_features.categorical, *SAMPLE_COLUMNS.context_features.numeric)


class Traffic:
    """Visitors of a world, day by day.

    Args:
        knobs: of the world that the models know.
        requests_per_day: pages that are asked for, less than 500,000.
        visitors: only so many of the world's users come; None is all of them.
        seed: another seed is another crowd with the same tastes.

    Raises:
        SettingsError: more visitors than the world has users, or too many requests.
    """

    def __init__(self, knobs: WorldKnobs, *, requests_per_day: int, visitors: int | None = None, seed: int = 0) -> None:
        if visitors is not None and visitors > knobs.users:
            raise SettingsError(
                f"{visitors:,} visitors were asked for, and the sample world has {knobs.users:,} users. Ask for fewer, "
                "or start a larger world (world.users) in a new workspace."
            )
        if requests_per_day >= FIRST_REQUEST:
            raise SettingsError(f"{requests_per_day:,} requests per day are too many; fewer than {FIRST_REQUEST:,}.")
        self.start = knobs.start
        self._world = World(knobs.model_copy(update={"requests_per_day": requests_per_day}))
        self._visitors, self._seed = visitors, seed
        crowd = zlib.crc32(f"{seed} {requests_per_day} {visitors}".encode()) % 1_000_000
        self._first = crowd * CROWD + FIRST_REQUEST
        self._day: tuple[int, pd.DataFrame] | None = None

    def day(self, number: int) -> pd.DataFrame:
        """All candidates of a day's pages in time order, with their truth and their luck."""
        if self._day is None or self._day[0] != number:
            rng = np.random.default_rng([self._world.knobs.seed, 6, self._seed, number])
            found = self._world.candidates(number, rng, self._visitors)
            found[REQUEST] += self._first
            found[LUCK] = rng.random(len(found))
            found[DELAY] = rng.exponential(self._world.knobs.mean_click_delay_minutes, len(found))
            self._day = number, found
        return self._day[1]

    def between(self, start: datetime, end: datetime) -> pd.DataFrame:
        """The candidates of all pages in ``[start, end)``, in time order."""
        days = range((start - self.start).days, -((self.start - end) // timedelta(days=1)))
        parts = [rows[(rows[TIME] >= start) & (rows[TIME] < end)] for rows in map(self.day, days)]
        return pd.concat(parts, ignore_index=True)

    def outcomes(self, shown: pd.DataFrame) -> pd.DataFrame:
        """What became of what was shown.

        Args:
            shown: candidates of :meth:`between` with ``position`` (1 is the top).

        Returns:
            The rows with ``click``, ``click_at`` (NaT without one), and the click probability at the position.
        """
        probability = shown[TRUTH].to_numpy() * seen_at(shown["position"].to_numpy() - 1)
        clicked = shown[LUCK].to_numpy() < probability
        longest = self._world.knobs.label_delay_hours * 59
        at = shown[TIME] + pd.to_timedelta(shown[DELAY].clip(0.01, longest), unit="m").dt.as_unit("us")
        return shown.assign(**{TRUTH: probability, CLICK_AT: at.where(clicked), "click": clicked.astype("int8")})


def as_logged(outcomes: pd.DataFrame) -> pd.DataFrame:
    """Outcomes in the columns of the sample feed's log, without the truth."""
    groups = (SAMPLE_COLUMNS.user_features, SAMPLE_COLUMNS.item_features, SAMPLE_COLUMNS.context_features)
    features = [name for group in groups for name in (*group.categorical, *group.numeric)]
    logged: pd.DataFrame = outcomes[[REQUEST, USER, ITEM, TIME, "click", *features, "position"]]
    # Nobody explores here: every page is in the ranker's order.
    return logged.assign(explored=False)
