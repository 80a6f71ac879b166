"""What the automations wait for, as Prefect's triggers.

Runs are watched from outside because a killed process tells nobody: no hook of it runs.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.outcome import ENDINGS

if TYPE_CHECKING:
    from prefect.events.schemas.automations import EventTrigger

RUN = "prefect.flow-run"

COMPLETED = f"{RUN}.Completed"

BEGINNINGS = {f"{RUN}.{name}" for name in ("Pending", "InfrastructurePending", "heartbeat")}
"""From each of these on, the next sign of life is due."""

_ENDED = ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled", "Cancelling", *ENDINGS)
_PUT_OFF = ("Paused", "Suspended", "Scheduled", "AwaitingConcurrencySlot", "AwaitingRetry", "AwaitingRestart")

ENDS = {f"{RUN}.{name}" for name in (*_ENDED, *_PUT_OFF)}
"""After these a run owes no sign of life.  Prefect names the event after the state, so own names count too."""


def told(events: Sequence[str], model: str, repeat_minutes: float) -> "EventTrigger":
    """One of these events about the model; more of them within a while count once."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    # Questions carry the version after the model's name.
    return EventTrigger(
        expect=set(events),
        match={"prefect.resource.id": [f"feedloop.model.{model}", f"feedloop.model.{model}.*"]},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(minutes=repeat_minutes),
    )


def unchecked(monitor: UUID, hours: float) -> "EventTrigger":
    """No run of the deployment ``monitor`` has ended well for so long."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(
        expect={COMPLETED},
        match={"prefect.resource.id": f"{RUN}.*"},
        match_related=_of((monitor,)),
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(hours=hours),
    )


def silent(deployments: Sequence[UUID], minutes: float) -> "EventTrigger":
    """A run was about to begin, or told that it lives, and then told nothing for so long."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(
        after=BEGINNINGS,
        # A sign of life is awaited after a sign of life: each begins the wait anew.
        expect=BEGINNINGS | ENDS,
        match={"prefect.resource.id": f"{RUN}.*"},
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(minutes=minutes),
    )


def crashed(deployments: Sequence[UUID], minutes: float, max_starts: int) -> "EventTrigger":
    """A run has crashed, has begun fewer than ``max_starts`` times, and nobody has touched it since.

    The wait is not only for people: a worker whose run is started again before it has let go of it may stop.
    """
    from prefect.events.schemas.automations import EventTrigger, Posture

    names = ("Scheduled", "AwaitingRetry", "AwaitingRestart", "AwaitingConcurrencySlot", "Late", "Pending", "Running")
    return EventTrigger(
        after={f"{RUN}.Crashed"},
        expect={f"{RUN}.{name}" for name in names},
        match={
            "prefect.resource.id": f"{RUN}.*",
            # The bound lies in what is matched, so that no run can crash and begin for ever.  0: it never began.
            "prefect.run-count": [str(count) for count in range(max_starts)],
        },
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(minutes=minutes),
    )


def ended_badly(deployments: Sequence[UUID]) -> "EventTrigger":
    """A run has failed, taken too long or crashed."""
    from prefect.events.schemas.automations import EventTrigger, Posture

    return EventTrigger(
        expect={f"{RUN}.Failed", f"{RUN}.TimedOut", f"{RUN}.Crashed"},
        match={"prefect.resource.id": f"{RUN}.*"},
        match_related=_of(deployments),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def _of(deployments: Sequence[UUID]) -> Any:
    ids = [f"prefect.deployment.{deployment}" for deployment in deployments]
    return {"prefect.resource.id": ids, "prefect.resource.role": "deployment"}
