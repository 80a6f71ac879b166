"""What a check tells Prefect's automations: that a retraining is wanted, and that the data have an incident.

An event can be lost without a word, so both are told again at every check while they hold.
"""

from prefect import task

from ranking.data_quality.checks import Quality
from ranking.monitoring import Weighed
from tasks.events import emit
from tasks.uncached import UNCACHED

INCIDENT = "feedloop.data.incident"

RETRAINING = {
    "schedule": "feedloop.retraining.due",
    "drift": "feedloop.drift.detected",
    "performance": "feedloop.performance.degraded",
    "combined": "feedloop.performance.degraded",
    "volume": "feedloop.volume.reached",
}
"""Trigger to the event that starts its retraining."""


@task(name="tell", timeout_seconds=300, **UNCACHED)
def tell(*, weighed: Weighed, quality: Quality, model: str) -> tuple[str, ...]:
    """Emit what holds; returns the names of the events.

    A retraining is told only when the arbiter has decided on one, until a run has taken it up.
    """
    told = []
    flight, champion = weighed.flight, weighed.decision.champion
    if flight is not None and flight.trigger in RETRAINING:
        told.append(RETRAINING[flight.trigger])
        payload = {
            "dedupe_key": flight.key,
            "flight": flight.key,
            "trigger": flight.trigger,
            "reason": weighed.reason,
            "champion": flight.champion,
            "decided_at": flight.started_at.isoformat(),
        }
        emit(told[-1], model, payload)
    if quality.blocks:
        told.append(INCIDENT)
        payload = {
            "dedupe_key": f"{champion}/{quality.window.end.isoformat()}/incident",
            "reason": quality.sentence,
            "champion": champion,
            "window_start": quality.window.start.isoformat(),
            "window_end": quality.window.end.isoformat(),
            "rows": str(quality.rows),
        }
        emit(told[-1], model, payload)
    return tuple(told)
