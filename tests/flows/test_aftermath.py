"""What a run leaves that did not end well."""

from pathlib import Path
from pkgutil import iter_modules, resolve_name

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.sorting import FlowRunSort

import flows
from flows.monitor import monitor
from ranking.errors import UnreadableData
from tasks.aftermath import leave_word
from tests.tasks.watched_feed import open_feed

FLOWS = [
    flow
    for module in iter_modules(flows.__path__)
    for flow in vars(resolve_name(f"flows.{module.name}")).values()
    if isinstance(flow, Flow)
]


@pytest.mark.parametrize("flow", {flow.name: flow for flow in FLOWS}.values(), ids=lambda flow: flow.name)
def test_every_flow_leaves_word_when_it_fails_crashes_or_is_cancelled(flow: Flow) -> None:
    for hooks in (flow.on_failure_hooks, flow.on_crashed_hooks, flow.on_cancellation_hooks):
        assert leave_word in hooks


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_run_says_what_failed_and_who_serves_all_the_same(tmp_path: Path) -> None:
    feed = open_feed(tmp_path)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "day.parquet").write_bytes(b"half a file")
    with pytest.raises(UnreadableData):
        monitor(config=str(feed.config))
    with get_client(sync_client=True) as client:
        (run, *_) = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=["monitor"])), sort=FlowRunSort.START_TIME_DESC
        )
        (word,) = [one for one in client.read_artifacts() if (one.flow_run_id, one.key) == (run.id, "ended-monitor")]
    assert word.description == "monitor: Failed"
    text = str(word.data)
    assert text.startswith("# monitor: Failed")
    assert "UnreadableData: " in text
    assert "**Version 1 of feed_ranker serves.**" in text
    assert "- *champion's reference" in text
