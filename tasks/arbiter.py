"""The arbiter at work: its memory from check to check, its decisions on record, and the retrainings it started."""

import logging
from datetime import datetime
from typing import Any, Literal

from prefect import runtime, task
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL

from ranking.monitoring import Weighed
from ranking.retention import RetentionKnobs
from ranking.triggers import Memory, Outcome, Signals, TriggerKnobs, arbitrate, settle
from settings.effects import RegistryKnobs
from settings.loading import load
from tasks.adapters.monitor_store import Landing, MonitorStore
from tasks.clock import moment
from tasks.registry import champion_now
from tasks.resuming import RESUMED
from tasks.retries import RETRY
from tasks.uncached import UNCACHED

logger = logging.getLogger("feedloop.arbiter")

NOBODY = "no Prefect server listens, so nothing was started; retrain with `feedloop retrain`"


@task(name="weigh signals", timeout_seconds=300, **RETRY.options, **UNCACHED)
def weigh(*, signals: Signals, knobs: TriggerKnobs, now: datetime, registry: RegistryKnobs, workspace: str) -> Weighed:
    """Decide whether to retrain, and keep the decision or non-decision with its reason.

    Raises:
        StorageError: the memory cannot be read or written, or another check has decided meanwhile.
    """
    store = MonitorStore(workspace, registry.model_name)
    weighed = _weighed(store, signals, knobs, now)
    logger.info("%s", weighed.decision.reason)
    return weighed


@task(name="forget old decisions", timeout_seconds=600, **RETRY.options, **UNCACHED)
def forget(*, retention: RetentionKnobs, registry: RegistryKnobs, workspace: str) -> int:
    """Delete the decisions that nobody needs any more; returns how many.

    Raises:
        StorageError: the workspace cannot be changed.
    """
    return MonitorStore(workspace, registry.model_name).forget(retention.decisions)


def _weighed(store: MonitorStore, signals: Signals, knobs: TriggerKnobs, now: datetime) -> Weighed:
    before = store.memory()
    decided, after = arbitrate(signals, _landed(store, before, signals.champion), knobs, now)
    if decided.flight is not None and not PREFECT_API_URL.value():
        # A retraining that nobody will start must not keep the next ones waiting.
        decided = decided.model_copy(update={"flight": None, "reason": f"{decided.reason} But {NOBODY}."})
        after = after.model_copy(update={"flight": None, "starts": before.starts})
    store.keep(decided, after, before)
    flight = after.flight
    if flight is None or store.taken_up(flight.key) is not None:
        return Weighed(decision=decided)
    reasons = [line.reason for line in after.recent if line.decision == "retrain" and line.at == flight.started_at]
    return Weighed(decision=decided, flight=flight, reason=reasons[-1] if reasons else "")


def _landed(store: MonitorStore, memory: Memory, champion: str | None) -> Memory:
    """The memory that knows how the retraining on its way has ended, if it has."""
    flight = memory.flight
    taken = None if flight is None else store.taken_up(flight.key)
    landing = None if taken is None else store.landing(taken.run)
    if flight is None or landing is None:
        return memory
    result: Literal["promoted", "not_promoted", "failed"] = "failed"
    if landing.result == "completed":
        result = "promoted" if champion != flight.champion else "not_promoted"
    return settle(memory, Outcome(key=flight.key, result=result, at=landing.at))


@task(name="take off", timeout_seconds=300, **RETRY.options, **RESUMED)
def take_off(
    *, trigger: str, flight: str | None, knobs: TriggerKnobs, now: datetime, registry: RegistryKnobs, workspace: str
) -> str | None:
    """Whether this run may retrain: one run per decision, and a schedule asks the arbiter first.

    Args:
        trigger: what asked for this run.
        flight: key of the decision that started it.
        knobs: of the arbiter.
        now: the present.
        registry: whose champion.
        workspace: where the arbiter's memory is.

    Returns:
        Why not; None when it may.  A person who starts a run by hand is not asked.
    """
    store, run = MonitorStore(workspace, registry.model_name), str(runtime.flow_run.id)
    if trigger == "schedule" and flight is None:
        champion = champion_now(registry, workspace)
        signals = Signals(champion=None if champion is None else champion.version, scheduled=True)
        decided = _weighed(store, signals, knobs, now).decision
        if decided.decision == "wait":
            return decided.reason
        flight = None if decided.flight is None else decided.flight.key
    if flight is None:
        return None
    taken = store.take_up(flight, run, now)
    return None if taken.run == run else f"Run {taken.run} has taken up {flight} already."


def land(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of the retraining's end: the next check settles its cool-down by it."""
    asked = flow_run.parameters
    if not asked.get("flight") and asked.get("trigger") != "schedule":
        return
    settings = load(asked.get("config"))
    now = datetime.fromisoformat(asked["now"]) if isinstance(asked.get("now"), str) else asked.get("now")
    result: Literal["completed", "failed"] = "completed" if state.is_completed() else "failed"
    store = MonitorStore(settings.workspace, settings.registry.model_name)
    store.land(str(flow_run.id), Landing(result=result, at=moment.fn(now)))
