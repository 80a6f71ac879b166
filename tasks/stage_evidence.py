"""Read what was seen since a rollout's stage was entered: from the gateway's logs and the outcomes that arrived."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import ibis
import pyarrow as pa
from prefect import task

from ranking import live
from ranking.assignment import CONTROL, TREATMENT
from ranking.health import HealthWindow, Sessions
from ranking.interleaving import Preference, preference
from ranking.rollout import Rollout
from ranking.rollout_checks import StageEvidence
from ranking.scored import codes
from ranking.strategies import AbStage, InterleavingStage, RampStage, ShadowStage
from settings.effects import DataKnobs, RegistryKnobs
from tasks.ab_evidence import experiment_evidence
from tasks.retries import RETRY
from tasks.stage_logs import Logs, by_arm, clicks_until, open_logs, ratio_of
from tasks.uncached import UNCACHED

if TYPE_CHECKING:
    import ibis.expr.types as ir

    from ranking.shadow import ShadowComparison


@task(name="gather evidence", timeout_seconds=3600, **RETRY.options, **UNCACHED)
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
                return found.model_copy(update={"experiment": experiment_evidence(logs, stage.experiment)})
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
    users = by_arm(arms.group_by("arm").agg(users=arms.count()).execute(), "users")
    clicks = clicks_until(logs, arms, logs.matured)
    return StageEvidence(
        stage=rollout.stage,
        windows=windows,
        control_users=users.get(CONTROL, 0),
        canary_users=users.get(TREATMENT, 0),
        control_clicks=None if clicks is None else ratio_of(clicks, CONTROL),
        canary_clicks=None if clicks is None else ratio_of(clicks, TREATMENT),
    )


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


def _shadow(logs: Logs, registry: RegistryKnobs, workspace: str) -> "ShadowComparison | None":
    from tasks.shadow_evidence import shadow_evidence

    return shadow_evidence(logs, registry, workspace)
