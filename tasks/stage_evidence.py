"""Read what was seen since a rollout's stage was entered: from the gateway's logs and the outcomes that arrived."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import fsspec
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import task

from ranking import live
from ranking.assignment import CONTROL, TREATMENT
from ranking.errors import MissingColumn
from ranking.experiment import Arms, ExperimentEvidence
from ranking.health import HealthWindow, Sessions
from ranking.interleaving import Preference, preference
from ranking.ratios import RatioSums
from ranking.results import Window
from ranking.rollout import Rollout
from ranking.rollout_checks import StageEvidence
from ranking.scored import codes
from ranking.strategies import AbStage, InterleavingStage, RampStage, ShadowStage
from settings.effects import DataKnobs, RegistryKnobs
from tasks.adapters.warehouse import Warehouse, open_warehouse
from tasks.retries import RETRY_REGISTRY
from tasks.uncached import UNCACHED

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from ranking.shadow import ShadowComparison

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
        return self.engine.read(uri) if _exists(uri) else None

    def stage(self, name: str, until: datetime) -> "ir.Table | None":
        """The rows of one of the gateway's logs that belong to this stage."""
        log = self.log(name)
        return None if log is None else live.in_stage(log, self.rollout, until)

    @cached_property
    def outcomes(self) -> "ir.Table | None":
        """Outcomes by request and item; ``None`` while there are none, or the log has no request ids."""
        columns = self.data.columns
        if columns.request is None or not _exists(self.outcomes_uri):
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
    """The logs of a rollout's present stage; see :func:`gather_evidence`."""
    with open_warehouse(data.warehouse) as engine, engine.guard(online):
        yield Logs(engine, rollout, online, outcomes, data, timedelta(hours=maturity_hours), now)


@task(name="gather evidence", timeout_seconds=3600, **RETRY_REGISTRY.options, **UNCACHED)
def gather_evidence(
    *,
    rollout: Rollout,
    online: str,
    outcomes: str,
    data: DataKnobs,
    maturity_hours: float,
    now: datetime,
    registry: RegistryKnobs,
    workspace: str,
) -> StageEvidence:
    """What was seen since the stage was entered.

    Args:
        rollout: its present stage is looked at.
        online: folder of the gateway's logs.
        outcomes: where the outcomes of served impressions arrive.
        data: their columns, and the log for what users did before an A/B test.
        maturity_hours: time after which a label is final.
        now: the present; nothing after it is read.
        registry: where the challenger of a shadow is, to score what it was compared on.
        workspace: where its rows are.

    Raises:
        MissingColumn: the outcomes lack a column.
        UnreadableData: a log cannot be read.
    """
    stage = rollout.current
    with open_logs(
        rollout, online=online, outcomes=outcomes, data=data, maturity_hours=maturity_hours, now=now
    ) as logs:
        match stage:
            case RampStage():
                return ramp_evidence(logs, paired=stage.share < 1)
            case AbStage():
                found = ramp_evidence(logs, paired=True)
                return found.model_copy(update={"experiment": experiment_evidence(logs, stage.experiment.horizon)})
            case InterleavingStage():
                return StageEvidence(stage=rollout.stage, interleaving=votes_of(logs))
            case ShadowStage():
                return StageEvidence(stage=rollout.stage, shadow=_shadow(logs, registry, workspace))
            case _:
                return StageEvidence(stage=rollout.stage)


def ramp_evidence(logs: Logs, *, paired: bool) -> StageEvidence:
    """Sessions by window, users and clicks of both arms."""
    rollout, requests = logs.rollout, logs.stage("requests", logs.now)
    windows = _windows(logs, requests, paired=paired)
    if requests is None or not paired:
        return StageEvidence(stage=rollout.stage, windows=windows)
    arms = logs.engine.stage(live.first_arms(requests))
    users = _by_arm(arms.group_by("arm").agg(users=arms.count()).execute(), "users")
    clicks = _clicks(logs, arms, logs.matured)
    return StageEvidence(
        stage=rollout.stage,
        windows=windows,
        control_users=users.get(CONTROL, 0),
        canary_users=users.get(TREATMENT, 0),
        control_clicks=None if clicks is None else _ratio(clicks, CONTROL),
        canary_clicks=None if clicks is None else _ratio(clicks, TREATMENT),
    )


def experiment_evidence(logs: Logs, horizon: timedelta) -> ExperimentEvidence | None:
    """Sums by user of an A/B test, up to the newest moment before which every label is final."""
    found = _test(logs, horizon)
    if found is None:
        return None
    until, arms, users = found
    counted = arms.group_by("arm").agg(users=arms.count(), crossed=(arms.arms > 1).sum()).execute()
    seen, crossed = _by_arm(counted, "users"), _by_arm(counted, "crossed")
    return ExperimentEvidence(
        until=until,
        clicks=_arms(users, "clicks", "impressions", "clicks_before", "impressions_before"),
        guardrails={
            "clicks_per_user": _arms(users, "clicks", "one", "clicks_before", "one"),
            "impressions_per_user": _arms(users, "impressions", "one", "impressions_before", "one"),
            "bad_sessions": _arms(users, "bad", "sessions"),
        },
        control_users=seen.get(CONTROL, 0),
        treatment_users=seen.get(TREATMENT, 0),
        crossovers=sum(crossed.values()),
    )


def users_of_test(logs: Logs, horizon: timedelta) -> pd.DataFrame | None:
    """Everything that is known of every user of an A/B test, in one row each; ``None`` while no label is final."""
    found = _test(logs, horizon)
    return None if found is None else found[2]


def daily_clicks(logs: Logs) -> pd.DataFrame | None:
    """Clicks and impressions with final labels by day and arm: ``day, arm, clicks, impressions``."""
    exposures, outcomes = logs.stage("exposures", logs.matured), logs.outcomes
    if exposures is None or outcomes is None:
        return None
    shown = live.labelled(exposures.filter(exposures.arm.isin(live.ARMS)), outcomes)
    dated = shown.mutate(day=shown.time.truncate("D"))
    found: pd.DataFrame = (
        dated.group_by("day", "arm")
        .agg(clicks=dated.label.sum(), impressions=dated.count())
        .order_by("day", "arm")
        .execute()
    )
    return found if len(found) else None


def votes_of(logs: Logs) -> Preference | None:
    """Whose picks users clicked in mixed lists with final labels; ``None`` while there is none."""
    exposures, outcomes = logs.stage("exposures", logs.matured), logs.outcomes
    if exposures is None or outcomes is None:
        return None
    mixed = exposures.group_by("request_id").mutate(mixed=exposures.team.max()).filter(ibis._.mixed >= 0)
    votes = live.votes(live.labelled(mixed.drop("mixed"), outcomes)).execute()
    if votes.empty:
        return None
    return preference(codes(pa.array(votes["user"]))[0], votes["champion"].to_numpy(), votes["challenger"].to_numpy())


def _test(logs: Logs, horizon: timedelta) -> "tuple[datetime, ir.Table, pd.DataFrame] | None":
    """Until when labels are final, every user's first arm, and what is summed of every user."""
    rollout = logs.rollout
    until = min(logs.matured, rollout.entered + horizon)
    requests = logs.stage("requests", until) if until > rollout.entered else None
    if requests is None:
        return None
    arms = logs.engine.stage(live.first_arms(requests))
    clicks = _clicks(logs, arms, until)
    if clicks is None:
        return None
    beside = clicks.merge(_before(logs, horizon), on="user", how="left")
    beside = beside.merge(_user_sessions(logs, requests), on="user", how="left")
    counts = ("clicks_before", "impressions_before", "sessions", "bad")
    return until, arms, beside.fillna(dict.fromkeys(counts, 0.0)).assign(one=1.0)


def _windows(logs: Logs, requests: "ir.Table | None", *, paired: bool) -> tuple[HealthWindow, ...]:
    """Every whole window of the stage.  A window with neither requests nor a beat was not measured."""
    start, knobs = logs.rollout.entered, logs.rollout.knobs
    length = timedelta(minutes=knobs.window_minutes)
    whole = int((logs.now - start) / length)
    counted: dict[tuple[int, str], Sessions] = {}
    if requests is not None:
        for row in live.sessions(requests, start, length).execute().itertuples():
            counted[int(row.window), str(row.arm)] = Sessions(total=int(row.total), bad=int(row.bad))
    alive = {window for window, _ in counted} | _beats(logs, start, length)
    none = Sessions(total=0, bad=0)
    return tuple(
        HealthWindow(
            start=start + number * length,
            end=start + (number + 1) * length,
            canary=counted.get((number, TREATMENT), none) if number in alive else None,
            control=counted.get((number, CONTROL), none) if paired and number in alive else None,
        )
        for number in range(whole)
    )


def _beats(logs: Logs, start: datetime, length: timedelta) -> set[int]:
    """Numbers of the windows in which some gateway said that it is alive: there, nobody came is a measurement."""
    beats = logs.log("beats")
    if beats is None:
        return set()
    numbered = live.windows_of(live.timed_in(beats, start, logs.now), start, length)
    return {int(number) for number in numbered.select("window").distinct().execute()["window"]}


def _clicks(logs: Logs, arms: "ir.Table", until: datetime) -> pd.DataFrame | None:
    """Clicks and impressions by user, of exposures whose label is final; ``None`` while there is none."""
    exposures, outcomes = logs.stage("exposures", until), logs.outcomes
    if exposures is None or outcomes is None:
        return None
    shown = logs.engine.stage(live.labelled(exposures, outcomes))
    seen, known = int(exposures.count().execute()), int(shown.count().execute())
    logger.info("Outcomes of %s of %s impressions with final labels are known", f"{known:,}", f"{seen:,}")
    found: pd.DataFrame = live.clicks_by_user(shown, arms).execute()
    return found if known else None


def _before(logs: Logs, horizon: timedelta) -> pd.DataFrame:
    """What users did in the log before the stage, over as long a time: for CUPED.  Labels of then are final now."""
    columns, start = logs.data.columns, logs.rollout.entered
    empty = pd.DataFrame({"user": pd.Series(dtype="str"), "clicks_before": [], "impressions_before": []})
    if not _exists(logs.data.uri):
        return empty
    log = logs.engine.read(logs.data.uri)
    renamed = log.select(
        user=log[columns.user].cast("string"), time=log[columns.time], label=log[columns.label].cast("float64")
    )
    past = Window(start=start - horizon, end=start - logs.maturity if logs.maturity < horizon else start)
    found: pd.DataFrame = live.before(live.timed_in(renamed, past.start, past.end)).execute()
    return found if len(found) else empty


def _user_sessions(logs: Logs, requests: "ir.Table") -> pd.DataFrame:
    """Sessions and bad sessions by user."""
    length = timedelta(minutes=logs.rollout.knobs.window_minutes)
    numbered = live.windows_of(requests.filter(requests.arm.isin(live.ARMS)), logs.rollout.entered, length)
    each = numbered.group_by("user", "window").agg(bad=numbered.bad.cast("float64").max())
    found: pd.DataFrame = each.group_by("user").agg(sessions=each.count().cast("float64"), bad=each.bad.sum()).execute()
    return found


def _arms(users: pd.DataFrame, *columns: str) -> Arms:
    return Arms(control=_ratio(users, CONTROL, *columns), treatment=_ratio(users, TREATMENT, *columns))


def _ratio(users: pd.DataFrame, arm: str, *columns: str) -> RatioSums:
    chosen = users[users["arm"] == arm]
    return RatioSums.of(*(chosen[name].to_numpy(np.float64) for name in columns or ("clicks", "impressions")))


def _by_arm(counted: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(arm): int(count) for arm, count in zip(counted["arm"], counted[column], strict=True)}


def _shadow(logs: Logs, registry: RegistryKnobs, workspace: str) -> "ShadowComparison | None":
    from tasks.shadow_evidence import shadow_evidence

    return shadow_evidence(logs, registry, workspace)


def _exists(uri: str) -> bool:
    """Whether there is anything at a URI: a file, or a folder with a parquet file in it."""
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not filesystem.exists(path):
        return False
    found: list[Any] = [path] if filesystem.isfile(path) else filesystem.find(path)
    return any(str(file).endswith((".parquet", ".pq", ".parq")) for file in found)
