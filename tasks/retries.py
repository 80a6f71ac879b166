"""Which errors are retried, and how patiently: named transient ones only.

Use as ``@task(**RETRY.options)``.  Tests set ``delays_seconds`` aside with
``task.with_options(retry_delay_seconds=0)``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

from prefect import runtime
from prefect.client.schemas.objects import State
from prefect.task_engine import TaskRunTimeoutError

from ranking.errors import RegistryUnavailable, StorageUnavailable


class RetryOptions(TypedDict):
    """The keyword arguments of ``prefect.task`` that a policy fills."""

    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Callable[[Any, Any, State[Any]], bool]


@dataclass(frozen=True)
class RetryPolicy:
    """Retry ``errors``, once per delay.

    A run that somebody started by hand and waits for gives up after the first few: a clear error within half a
    minute is worth more there than patience.  The run of a deployment sits an outage of minutes out.
    """

    errors: tuple[type[Exception], ...]
    delays_seconds: tuple[float, ...]
    watched: int
    jitter: float = 0.3

    def wants(self, task: Any, run: Any, state: State[Any]) -> bool:
        """Whether the failed state holds one of the named errors, and this run still has patience."""
        result = state.result(raise_on_failure=False)
        patience = len(self.delays_seconds) if runtime.deployment.id else self.watched
        # Prefect's own time limit of a task is a TimeoutError too, but what has hung for hours will hang again.
        transient = isinstance(result, self.errors) and not isinstance(result, TaskRunTimeoutError)
        return transient and run.run_count <= patience

    @property
    def options(self) -> RetryOptions:
        """Arguments for ``@task``."""

        # A function and not the bound method: Prefect takes whatever is no plain function for "do not retry".
        def wants(task: Any, run: Any, state: State[Any]) -> bool:
            return self.wants(task, run, state)

        return RetryOptions(
            retries=len(self.delays_seconds),
            retry_delay_seconds=list(self.delays_seconds),
            retry_jitter_factor=self.jitter,
            retry_condition_fn=wants,
        )


RETRY = RetryPolicy(errors=(RegistryUnavailable, StorageUnavailable), delays_seconds=(1, 4, 15, 30, 60), watched=2)
