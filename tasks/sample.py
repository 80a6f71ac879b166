"""The sample feed on disk: days served by the ranker in charge, and the log as the data team would have it."""

import json
import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ranking.bundle import Bundle
from ranking.errors import SettingsError
from ranking.history import with_history
from ranking.values import digest
from ranking.world import Ranker, World, WorldKnobs, as_known_at
from settings.model import Settings
from tasks.adapters.storage import read_bytes, write_bytes

logger = logging.getLogger("feedloop.sample")


class SampleFeed:
    """A world that lives in a folder and can be continued.

    ``truth/`` holds everything of each day, the log that a user would have is in ``interactions/``.
    """

    def __init__(self, folder: str, knobs: WorldKnobs, window_days: float) -> None:
        self.folder = Path(folder)
        self._window = timedelta(days=window_days)
        self.knobs = knobs
        self._world = World(knobs)
        self._read: dict[int, pd.DataFrame] = {}
        self._check_same_world()

    @property
    def days(self) -> int:
        """How many days have been served."""
        return len(list((self.folder / "truth").glob("day-*.parquet")))

    @property
    def now(self) -> datetime:
        """Midnight after the last served day."""
        return self.knobs.start + timedelta(days=self.days)

    def serve(self, days: int, champion: Bundle | None, on_day: Callable[[int], None] | None = None) -> None:
        """Let ``champion`` (or, without one, newest first) rank the next ``days`` days.

        Raises:
            StorageError: the folder cannot be written.
        """
        ranker = None if champion is None else ChampionRanker(champion)
        for number in range(self.days, self.days + days):
            knowing = None if ranker is None else ranker.knowing(self._recent())
            day = self._world.day(number, knowing)
            self._write(f"truth/day-{number:03d}.parquet", day)
            # Yesterday's late clicks have arrived by now, so its file is written again.
            for known in (number - 1, number):
                if known >= 0:
                    self._write(f"interactions/day-{known:03d}.parquet", as_known_at(self._truth(known), self.now))
            if on_day is not None:
                on_day(number)

    def log(self) -> pd.DataFrame:
        """All interactions as known now."""
        if self.days == 0:
            return as_known_at(self._world.day(0).head(0), self.now)
        truth = pd.concat([self._truth(number) for number in range(self.days)], ignore_index=True)
        return as_known_at(truth, self.now)

    def _recent(self) -> pd.DataFrame:
        """What a retraining would read now: a ranker must meet the features that it learnt from."""
        log = self.log()
        return log[log["timestamp"] >= self.now - self._window]

    def click_rate(self, days: range) -> float:
        """True expected click rate of what was shown on these days."""
        return float(np.mean(np.concatenate([self._truth(day)["true_click_probability"] for day in days])))

    def _truth(self, number: int) -> pd.DataFrame:
        if number not in self._read:
            self._read[number] = pd.read_parquet(self.folder / "truth" / f"day-{number:03d}.parquet")
        return self._read[number]

    def _write(self, name: str, rows: pd.DataFrame) -> None:
        buffer = BytesIO()
        rows.to_parquet(buffer, index=False)
        write_bytes(str(self.folder / name), buffer.getvalue())

    def _check_same_world(self) -> None:
        """A feed continued under other knobs would be two worlds in one log."""
        marker = self.folder / "world.json"
        wanted = digest(self.knobs)
        if not marker.exists():
            write_bytes(
                str(marker), json.dumps({"digest": wanted, "knobs": self.knobs.model_dump(mode="json")}).encode()
            )
        elif json.loads(marker.read_text())["digest"] != wanted:
            raise SettingsError(
                f"{self.folder} holds a sample feed made with other [world] settings. "
                "Restore those settings, or remove the folder to start a new world."
            )


def live_until(folder: str) -> datetime | None:
    """How far live traffic has gone in a sample feed; None without any."""
    content = read_bytes(f"{folder}/live.json")
    return None if content is None else datetime.fromisoformat(json.loads(content)["until"])


def set_live_until(folder: str, until: datetime) -> None:
    """Keep how far live traffic has gone.  Raises StorageError: the folder cannot be written."""
    write_bytes(f"{folder}/live.json", json.dumps({"until": until.isoformat()}).encode())


def sample_now(settings: Settings) -> datetime | None:
    """The present of the sample feed, which its days and its live traffic move; None for any other log."""
    if not settings.is_sample:
        return None
    feed = SampleFeed(settings.sample_folder, settings.world, settings.data.window_days)
    return max(feed.now, live_until(settings.sample_folder) or feed.now)


class ChampionRanker:
    """The champion as a ranker of candidates, with history as of the last midnight.

    A day's grain is what a nightly feature table can serve to a live feed.
    """

    def __init__(self, champion: Bundle) -> None:
        import ibis

        self._champion = champion
        history = champion.facts.spec.history.model_copy(update={"grain": "day"})
        self._spec = champion.facts.spec.model_copy(update={"history": history})
        self._engine = ibis.duckdb.connect()
        self._query: str | None = None

    def knowing(self, log: pd.DataFrame) -> Ranker:
        """Rank with the history that this log tells."""

        def rank(candidates: pd.DataFrame) -> np.ndarray:
            history = self._history(log, candidates)
            return self._champion.score(pd.concat([candidates.reset_index(drop=True), history], axis=1))

        return rank

    def _history(self, log: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
        # Only what histories are made of goes through the engine; the candidates' own columns stay outside.
        keys = [column for key in self._spec.history_keys for column in key.columns]
        needed = [*dict.fromkeys((*keys, self._spec.log.time)), self._spec.log.label]
        asked = candidates.reindex(columns=needed).assign(observed=False)
        rows = pd.concat([log[needed].assign(observed=True), asked], ignore_index=True).reset_index(names="row_id")
        self._engine.create_table("rows", pa.Table.from_pandas(rows, preserve_index=False), overwrite=True)
        if self._query is None:
            # Writing the SQL costs as much as running it, and it is the same every day.
            names = [feature.name for feature in self._spec.history_features]
            table = with_history(self._engine.table("rows"), self._spec)
            self._query = self._engine.compile(table.filter(~table.observed).order_by("row_id").select(*names))
        found: pd.DataFrame = self._engine.raw_sql(self._query).df()
        return found
