"""A named transient error is really tried again by Prefect, as often as the run has patience, and no other error."""

from threading import Event

import pytest
from prefect import flow, task
from prefect.task_engine import TaskRunTimeoutError

from ranking.errors import RegistryUnavailable, UnknownModel
from tasks.retries import RetryPolicy

POLICY = RetryPolicy(errors=(RegistryUnavailable,), delays_seconds=(0, 0, 0, 0), watched=2)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("error", "away", "tries"),
    [(RegistryUnavailable, 2, 3), (RegistryUnavailable, 9, 3), (UnknownModel, 9, 1)],
    ids=["it comes back", "it stays away", "another error"],
)
def test_a_task_is_tried_again_after_a_transient_error_only(error: type[Exception], away: int, tries: int) -> None:
    seen: list[int] = []

    @task(**POLICY.options)
    def ask() -> str:
        seen.append(len(seen))
        if len(seen) <= away:
            raise error("no answer")
        return "an answer"

    @flow
    def run() -> str:
        return ask()

    if tries > away:
        assert run() == "an answer"
    else:
        with pytest.raises(error):
            run()
    assert len(seen) == tries


@pytest.mark.usefixtures("prefect_server")
def test_a_task_that_ran_into_its_time_limit_is_not_run_again() -> None:
    policy = RetryPolicy(errors=(TimeoutError,), delays_seconds=(0, 0), watched=2)
    seen: list[int] = []

    @task(timeout_seconds=0.2, **policy.options)
    def hang() -> None:
        seen.append(1)
        Event().wait(30)

    @flow
    def run() -> None:
        hang()

    with pytest.raises(TaskRunTimeoutError):
        run()
    assert len(seen) == 1
