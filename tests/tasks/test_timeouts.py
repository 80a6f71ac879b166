"""Nothing hangs for ever: every task has a time limit, and every flow that never waits for a person."""

from importlib import import_module
from pkgutil import iter_modules

import pytest
from prefect import Flow, Task

import flows
import tasks

HOUR = 3600


def found_in(package: object, kind: type) -> dict[str, object]:
    names = [f"{package.__name__}.{one.name}" for one in iter_modules(package.__path__) if not one.ispkg]  # type: ignore[attr-defined]
    return {
        f"{name}.{attribute}": value
        for name in names
        for attribute, value in vars(import_module(name)).items()
        if isinstance(value, kind)
    }


TASKS = found_in(tasks, Task)
FLOWS = {flow.name: flow for flow in found_in(flows, Flow).values() if isinstance(flow, Flow)}


def test_every_task_is_found() -> None:
    assert len({id(task) for task in TASKS.values()}) > 25
    moving = {"propose", "promote", "rollback", "advance", "steer"}
    assert set(FLOWS) == {"retrain", "monitor", "compare", "refresh", "replay", *moving}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_has_a_time_limit_between_a_minute_and_a_day(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, Task)
    assert task.timeout_seconds is not None, f"{name} may hang for ever: give it timeout_seconds"
    assert 60 <= task.timeout_seconds <= 24 * HOUR


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_flow_has_a_time_limit_unless_it_may_wait_for_a_person(name: str) -> None:
    limit = FLOWS[name].timeout_seconds
    # While a question waits the limit would run on, and end it.
    assert (limit is None) == (name in {"retrain", "propose", "promote"}), (name, limit)
