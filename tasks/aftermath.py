"""What a run leaves that did not end well: a page that says what failed, and who serves all the same.

Use as ``@flow(**LEAVES_WORD)``.  A killed process runs no hook; Prefect's state and its message are then all there is.
"""

import logging
from typing import Any, Final, TypedDict

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import FlowStateHook

from ranking.errors import FeedloopError
from settings.loading import load
from tasks.registry import champion_now

logger = logging.getLogger("feedloop.aftermath")

RETRY = "Started again (*Retry*), it goes on where it stopped: finished steps are not repeated."


class FlowHooks(TypedDict):
    """The keyword arguments of ``prefect.flow`` for an end that is not good."""

    on_failure: list[FlowStateHook[..., Any]]
    on_cancellation: list[FlowStateHook[..., Any]]
    on_crashed: list[FlowStateHook[..., Any]]


def leave_word(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Hook of a run's bad end: log it, and write the artifact ``ended-<flow>`` of this run."""
    serves = _who_serves(flow_run)
    logger.error("%s is %s: %s %s", flow_run.name, state.name, state.message, serves)
    with get_client(sync_client=True) as client:
        client.create_artifact(
            ArtifactCreate(
                key=f"ended-{flow.name}",
                type="markdown",
                description=f"{flow_run.name}: {state.name}",
                data=_page(flow_run, state, _unfinished(client, flow_run), serves),
                flow_run_id=flow_run.id,
            )
        )


LEAVES_WORD: Final = FlowHooks(on_failure=[leave_word], on_cancellation=[leave_word], on_crashed=[leave_word])


def _who_serves(flow_run: FlowRun) -> str:
    try:
        settings = load(flow_run.parameters.get("config"))
        champion = champion_now(**settings.store)
    except FeedloopError as error:
        return f"Who serves could not be read ({error}); nothing but a ledger entry changes it."
    if champion is None:
        return f"No version of {settings.registry.model_name} serves, as before a first promotion."
    return f"Version {champion.version} of {champion.name} serves."


def _unfinished(client: SyncPrefectClient, flow_run: FlowRun) -> list[tuple[str, str]]:
    """Steps that did not end well, with their states' words."""
    runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id])), limit=200)
    bad = [run for run in runs if run.state is not None and not run.state.is_completed()]
    return [(run.name, f"{run.state.name}: {run.state.message or 'no words'}") for run in bad if run.state is not None]


def _page(flow_run: FlowRun, state: State[Any], unfinished: list[tuple[str, str]], serves: str) -> str:
    lines = [f"# {flow_run.name}: {state.name}", "", state.message or "No reason was given.", "", f"**{serves}**", ""]
    lines += [f"- *{name}* {said}" for name, said in unfinished]
    return "\n".join([*lines, "", RETRY])
