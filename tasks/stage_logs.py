"""The logs of one stage of a rollout: what the gateway wrote, and the outcomes that arrived."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd

from ranking import live
from ranking.errors import MissingColumn
from ranking.ratios import RatioSums
from ranking.rollout import Rollout
from settings.effects import DataKnobs
from tasks.adapters.warehouse import Warehouse, open_warehouse

if TYPE_CHECKING:
    import ibis.expr.types as ir

logger = logging.getLogger("feedloop.rollouts")


@dataclass(frozen=True)
class Logs:
    """The logs of one stage, read through one engine.  A log that is not there yet is ``None``."""

    engine: Warehouse
    rollout: Rollout
    online: str
    outcomes_uri: str
    data: DataKnobs
    maturity: timedelta
    now: datetime

    def log(self, name: str) -> "ir.Table | None":
        """One of the gateway's logs."""
        uri = f"{self.online}/{name}"
        return self.engine.read(uri) if holds_rows(uri) else None

    def stage(self, name: str, until: datetime) -> "ir.Table | None":
        """The rows of one of the gateway's logs that belong to this stage."""
        log = self.log(name)
        return None if log is None else live.in_stage(log, self.rollout, until)

    @cached_property
    def outcomes(self) -> "ir.Table | None":
        """Outcomes by request and item; ``None`` while there are none, or the log has no request ids."""
        columns = self.data.columns
        if columns.request is None or not holds_rows(self.outcomes_uri):
            return None
        log = self.engine.read(self.outcomes_uri)
        wanted = {"request_id": columns.request, "item": columns.item, "label": columns.label}
        missing = [name for name in wanted.values() if name not in log.columns]
        if missing:
            raise MissingColumn(
                f"The outcomes at {self.outcomes_uri} have no column {', '.join(map(repr, missing))}. They have: "
                f"{', '.join(log.columns)}. Write them in the columns of the interaction log."
            )
        kept = log.select(
            request_id=log[columns.request].cast("string"),
            item=log[columns.item].cast("string"),
            label=log[columns.label].cast("float64"),
        )
        return kept.filter(kept.label.notnull())

    @property
    def matured(self) -> datetime:
        """Exposures before this moment have final labels."""
        return self.now - self.maturity


@contextmanager
def open_logs(
    rollout: Rollout, *, online: str, outcomes: str, data: DataKnobs, maturity_hours: float, now: datetime
) -> Iterator[Logs]:
    """The logs of a rollout's present stage; see :func:`tasks.stage_evidence.gather_evidence`."""
    with open_warehouse(data.warehouse) as engine, engine.guard(online):
        yield Logs(engine, rollout, online, outcomes, data, timedelta(hours=maturity_hours), now)


def clicks_until(logs: Logs, arms: "ir.Table", until: datetime) -> pd.DataFrame | None:
    """Clicks and impressions by user, of exposures whose label is final; ``None`` while there is none."""
    exposures, outcomes = logs.stage("exposures", until), logs.outcomes
    if exposures is None or outcomes is None:
        return None
    shown = logs.engine.stage(live.labelled(exposures, outcomes))
    seen, known = int(exposures.count().execute()), int(shown.count().execute())
    logger.info("Outcomes of %s of %s impressions with final labels are known", f"{known:,}", f"{seen:,}")
    found: pd.DataFrame = live.clicks_by_user(shown, arms).execute()
    return found if known else None


def ratio_of(users: pd.DataFrame, arm: str, *columns: str) -> RatioSums:
    """The sums of an arm's users: clicks over impressions, or other two columns."""
    chosen = users[users["arm"] == arm]
    return RatioSums.of(*(chosen[name].to_numpy(np.float64) for name in columns or ("clicks", "impressions")))


def by_arm(counted: pd.DataFrame, column: str) -> dict[str, int]:
    """One column of a table with one row per arm."""
    return {str(arm): int(count) for arm, count in zip(counted["arm"], counted[column], strict=True)}


def holds_rows(uri: str) -> bool:
    """Whether there is anything at a URI: a file, or a folder with a parquet file in it."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.exists(path):
        return False
    found: list[Any] = [path] if filesystem.isfile(path) else filesystem.find(path)
    return any(str(file).endswith((".parquet", ".pq", ".parq")) for file in found)
