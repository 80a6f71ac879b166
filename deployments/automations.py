"""What Prefect does by itself when something is told, or when nothing is: the automations as a table.

A new automation is one more row of :data:`AUTOMATIONS`.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from pydantic import Field

from deployments import watches
from ranking.errors import SettingsError
from ranking.values import Value
from settings.effects import ScheduleKnobs
from tasks.alerts import INCIDENT, RETRAINING
from tasks.inquiry import REQUESTED

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events import AutomationCore
    from prefect.events.actions import ActionTypes
    from prefect.events.schemas.automations import EventTrigger

PARAMETERS = {name: f"{{{{ event.payload.{name} }}}}" for name in ("trigger", "reason", "flight")}
"""Parameters of a retraining, taken from the event.  Prefect checks them against the flow's form before it runs."""


class Automation(Value):
    """One row of the table."""

    name: str = Field(description="Its name in Prefect; feedloop owns the automations of these names.")
    description: str
    when: Literal["told", "unchecked", "silent", "crashed", "ended badly"] = Field(
        default="told", description="What it waits for: one of its events about the model, or what has become of runs."
    )
    events: tuple[str, ...] = ()
    does: Literal["retrain", "notify", "give up", "start again"]
    words: str = Field(default="", description="Text of the notification; {{ … }} is filled in by Prefect.")


AUTOMATIONS: tuple[Automation, ...] = (
    Automation(
        name="feedloop: retrain",
        description="The arbiter has decided to retrain. Several events within a while start one run.",
        events=tuple(dict.fromkeys(RETRAINING.values())),
        does="retrain",
    ),
    Automation(
        name="feedloop: data incident",
        description="The last day's rows are faulty: nothing is retrained until they are repaired.",
        events=(INCIDENT,),
        does="notify",
        words="Data incident, retraining is held: {{ event.payload.reason }}",
    ),
    Automation(
        name="feedloop: approval waits",
        description="A promotion waits for an answer.",
        events=(REQUESTED,),
        does="notify",
        words="Version {{ event.payload.challenger }} of {{ event.payload.model }} waits for an approval until "
        "{{ event.payload.expires_at }}: {{ event.payload.reason }}",
    ),
    Automation(
        name="feedloop: not monitored",
        description="No check of the champion has ended well for too long.",
        when="unchecked",
        does="notify",
        words="No check of the champion has ended well for too long. Is a worker running?",
    ),
    Automation(
        name="feedloop: lost run",
        description="A run gives no sign of life any more: its worker or its machine is gone.",
        when="silent",
        does="give up",
        words="No sign of life for {minutes:g} minutes: its worker or its machine is gone.",
    ),
    Automation(
        name="feedloop: start again",
        description="A crashed run begins again on any worker, a few times; what it had finished is not done again.",
        when="crashed",
        does="start again",
        words="Started again after a crash: what was finished is not done again.",
    ),
    Automation(
        name="feedloop: failed run",
        description="A run has failed or crashed.",
        when="ended badly",
        does="notify",
        words="Run {{ flow_run.name }} of {{ flow.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }} "
        "Who serves changes by a ledger entry only: feedloop status. {{ flow_run|ui_url }}",
    ),
)


def register_all(
    client: "SyncPrefectClient", model: str, knobs: ScheduleKnobs, deployments: Mapping[str, UUID]
) -> list[str]:
    """Create or update every automation, by its name; returns the names.

    Args:
        client: of the server.
        model: name of the registered model whose events count.
        knobs: how long, and who is notified.
        deployments: name to id of what was registered.

    Raises:
        SettingsError: there is no such notification block.
    """
    notify = _notifier(client, knobs)
    for row in AUTOMATIONS:
        wanted = _core(row, model, knobs, deployments, notify)
        if row.does == "notify" and knobs.notification_block is None:
            # Prefect's page shows an empty action.
            told = (
                "Nobody is told yet: schedules.notification_block names no block, so it only shows in the event feed."
            )
            wanted = wanted.model_copy(update={"description": f"{row.description} {told}"})
        known = client.read_automations_by_name(row.name)
        if known:
            # Switched off by a person, it stays off.
            client.update_automation(known[0].id, wanted.model_copy(update={"enabled": known[0].enabled}))
        else:
            client.create_automation(wanted)
    return [row.name for row in AUTOMATIONS]


def _core(
    row: Automation,
    model: str,
    knobs: ScheduleKnobs,
    deployments: Mapping[str, UUID],
    notify: "Callable[[str], ActionTypes]",
) -> "AutomationCore":
    from prefect.events import AutomationCore

    trigger = _trigger(row, model, knobs, deployments)
    action = notify(row.words) if row.does == "notify" else _action(row, knobs, deployments)
    return AutomationCore(name=row.name, description=row.description, trigger=trigger, actions=[action])


def _trigger(row: Automation, model: str, knobs: ScheduleKnobs, deployments: Mapping[str, UUID]) -> "EventTrigger":
    runs = tuple(deployments.values())
    match row.when:
        case "told":
            return watches.told(row.events, model, knobs.repeat_minutes)
        case "unchecked":
            return watches.unchecked(deployments["monitor"], knobs.absence_hours)
        case "silent":
            return watches.silent(runs, knobs.lost_minutes)
        case "crashed":
            return watches.crashed(runs, knobs.restart_minutes, knobs.max_starts)
        case "ended badly":
            return watches.ended_badly(runs)


def _action(row: Automation, knobs: ScheduleKnobs, deployments: Mapping[str, UUID]) -> "ActionTypes":
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState, RunDeployment

    if row.does == "retrain":
        return RunDeployment(deployment_id=deployments["retrain"], parameters=dict(PARAMETERS))
    if row.does == "give up":
        return ChangeFlowRunState(state=StateType.CRASHED, message=row.words.format(minutes=knobs.lost_minutes))
    # Not AwaitingRetry: Prefect keeps that name for a process that is still there.
    return ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRestart", message=row.words)


def _notifier(client: "SyncPrefectClient", knobs: ScheduleKnobs) -> "Callable[[str], ActionTypes]":
    """A notification through the configured block; without one, the automation only shows in the event feed."""
    from prefect.events.actions import DoNothing, SendNotification
    from prefect.exceptions import ObjectNotFound

    if knobs.notification_block is None:
        return lambda words: DoNothing()
    kind, name = knobs.notification_block.split("/")
    try:
        block = client.read_block_document_by_name(name, kind).id
    except ObjectNotFound as error:
        raise SettingsError(
            f"schedules.notification_block = {knobs.notification_block!r}: the Prefect server has no such block. "
            "Create it there (Blocks), or take the setting away."
        ) from error
    return lambda words: SendNotification(block_document_id=block, subject="feedloop", body=words)
